"""The collaboration of a round: every collaborator's drafts, the justifications, evaluations, as committed steps.

Invariant: what a step is given here is exactly what its output depends on.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from semievol_ray import storage
from semievol_ray.drift import refusal
from semievol_ray.engines.base import Sampling
from semievol_ray.listing import PART_SUFFIX
from semievol_ray.methodconfig import CollaboratorConfig, EndpointConfig
from semievol_ray.runs import Step, read_steps
from semievol_ray.stages.beside import side_by_side
from semievol_ray.stages.context import Adapter, Context
from semievol_ray.stages.counting import counted
from semievol_ray.stages.draft import DraftJob
from semievol_ray.stages.evaluate import accuracy_metrics
from semievol_ray.stages.groups import Arranged, Wanted, arranged, engine_groups, packed, run_group
from semievol_ray.stages.justify import JustifyJob
from semievol_ray.stages.packing import packing_lines
from semievol_ray.stages.predict import PredictJob
from semievol_ray.stages.watching import check_errors
from semievol_ray.steps import STEP_FILE, read_step_record


@dataclass(frozen=True)
class Asked:
    """One fold that a round answers: its rows, their demonstrations, the EXAMPLES these name, and its steps' folder."""

    folder: str
    pool: Step
    shown: Step
    demonstrations: Step | None


@dataclass(frozen=True)
class Warm:
    """The fine-tuned adapters of a round: the student's, and those of other bases by model name.

    `student` is None where M_base stands in for M_warm.
    """

    student: Adapter | None
    others: Mapping[str, Adapter] = field(default_factory=dict)


def answer_round(
    context: Context,
    number: int,
    folds: Sequence[Asked],
    warm: Warm,
    evaluated: Sequence[tuple[str, Step, Adapter | None]],
) -> list[Step]:
    """Drafts of every collaborator, justifications, and the evaluations that share their engines; JUSTIFIED by fold.

    `evaluated` names evaluation steps, their labeled rows, and the adapter each is of (None: the untouched model).
    """
    wanted = [evaluation(context, name, test, adapter) for name, test, adapter in evaluated]
    justified = []
    for fold in folds:
        drafts = drafts_of(context, fold, warm)
        justify = _justify(context, fold, tuple(d.job.step for d in drafts), warm.student)
        wanted += [*drafts, justify]
        justified.append(justify.job.step)
    answer(context, f"round-{number}", wanted)
    return justified


def drafts_of(context: Context, fold: Asked, warm: Warm | None) -> list[Wanted]:
    """The drafts of every collaborator; without `warm` none of them may need it."""
    return [_draft(context, c, fold, warm) for c in context.config.method.collaborators]


def answer(context: Context, name: str, wanted: Sequence[Wanted]) -> None:
    """Run the sessions that bring every wanted step to its commit; endpoints are asked while engines draft."""
    if groups := engine_groups(wanted):
        _run(context, name, arranged(context, name, groups))
    for item in wanted:
        _commit(context, item)


def _run(context: Context, name: str, groups: Arranged) -> None:
    beside, *turns = packed(context, name, groups)
    for line in packing_lines(turns, beside, context.resources_now()):
        context.progress.say(line)

    def run(group: Sequence[Wanted], *, beside: bool = False) -> Callable[[], None]:
        return lambda: run_group(context, name, group, beside=beside)

    def draft() -> None:
        for first, *others in groups.turns:
            side_by_side(run(first), *(run(group, beside=True) for group in others))

    side_by_side(draft, *(run(group, beside=True) for group in groups.beside))
    for group in groups.last:
        run_group(context, name, group)


def evaluation(context: Context, name: str, test: Step, adapter: Adapter | None) -> Wanted:
    """The evaluation of one model on a split of labeled rows."""
    return _predict(context, name, test, adapter)


def _draft(context: Context, c: CollaboratorConfig, fold: Asked, warm: Warm | None) -> Wanted:
    adapter = _adapter_of(context, c, warm)
    shown = fold.demonstrations if c.demonstrations else None
    inputs = {"unlabeled": fold.pool.digest()} | _model_inputs(context, c)
    inputs |= {"adapter": adapter.digest} if adapter else {}
    inputs |= {"shown": fold.shown.digest(), "retrieve": shown.digest()} if shown else {}
    model = c.model if c.endpoint and c.model else context.model(c.model).name
    settings = {
        "task": context.task.settings(),
        "collaborator": _collaborator_settings(c) | {"model": model},
        "numerics": context.numerics_settings(),
        "seed": context.config.seed,
    }
    step = context.step(
        f"{fold.folder}/drafts/{c.name}",
        settings=settings,
        inputs=inputs,
        parts=fold.pool.parts,
        numerics=context.endpoint_numerics if c.endpoint else context.serving_numerics,
    )
    sampling = Sampling(
        c.sampling.temperature,
        c.sampling.max_tokens or context.task.max_tokens,
        c.sampling.top_p,
        c.sampling.top_k,
        c.sampling.stop or (),
    )
    name = adapter.name if adapter else None
    chosen = c.sampling.structured == "choice"
    job = DraftJob(step, fold.pool, fold.shown, shown, c.demonstrations, sampling, name, c.instruction, chosen)
    return Wanted(job, model, adapter, c.endpoint)


def _adapter_of(context: Context, c: CollaboratorConfig, warm: Warm | None) -> Adapter | None:
    if c.adapter == "none":
        return None
    assert warm is not None
    name = context.model(c.model).name
    return warm.student if name == context.model().name else warm.others[name]


def _model_inputs(context: Context, c: CollaboratorConfig) -> dict[str, str]:
    """What identifies the weights: their digest, or no more than the address of an endpoint."""
    return {"endpoint": c.endpoint.address} if c.endpoint else {"model": context.model(c.model).digest}


def _collaborator_settings(c: CollaboratorConfig) -> dict[str, Any]:
    """What a collaborator's answers depend on; pace, price and key of an endpoint are left out."""
    return c.model_dump(mode="json", exclude={"name", "endpoint"}, exclude_none=True)


def _justify(context: Context, fold: Asked, drafts: tuple[Step, ...], warm: Adapter | None) -> Wanted:
    method = context.config.method
    settings = {
        "task": context.task.settings(),
        "justify": method.justify.model_dump(mode="json"),
        "confidence": method.confidence,
        "numerics": context.numerics_settings(),
    }
    inputs = {"unlabeled": fold.pool.digest(), "model": context.model().digest}
    inputs |= {"adapter": warm.digest} if warm else {}
    inputs |= {f"drafts/{d.name.rsplit('/', 1)[1]}": _fingerprint(d) for d in drafts}
    inputs |= context.agreeing_input
    _refuse_older(context, f"{fold.folder}/justify", drafts)
    step = context.step(
        f"{fold.folder}/justify",
        settings=settings,
        inputs=inputs,
        parts=fold.pool.parts,
        numerics=context.serving_numerics,
    )
    sampling = Sampling(0.0, method.justify.max_tokens or context.task.max_tokens)
    name, when = warm.name if warm else None, method.justify.when
    job = JustifyJob(step, fold.pool, drafts, sampling, name, method.confidence, when, context.agreeing_path)
    return Wanted(job, context.model().name, warm)


def _refuse_older(context: Context, name: str, drafts: Sequence[Step]) -> None:
    """Justifications that are not committed yet, of drafts that were since begun anew, would mix two samples.

    Where parts are stored that is DriftError; where none is the step is begun anew too. A committed step knows its
    drafts by their content: see `_check_sources`.
    """
    path = context.run.path(name)
    if not storage.exists(f"{path}/{STEP_FILE}"):
        return
    record = read_step_record(path)
    later = {draft.name: of["started"] for draft in drafts if _begun(of := draft.record()) > _begun(record)}
    if not later or record.get("committed"):
        return
    if storage.names(path, PART_SUFFIX):
        made = record["started"]
        changed = [f"{draft}: begun anew at {since}, answered from at {made}" for draft, since in later.items()]
        raise refusal(context.run.root, name, changed, [])
    context.run.claim.check()
    storage.remove_folder(path)


def _begun(record: Mapping[str, Any]) -> tuple[int, str]:
    """When a step began: by which driver, whatever clocks its machines had, and when by its clock."""
    return int(record.get("fence") or 0), str(record["started"])


def _predict(context: Context, name: str, test: Step, adapter: Adapter | None) -> Wanted:
    model = context.model()
    inputs = {"test": test.digest(), "model": model.digest} | ({"adapter": adapter.digest} if adapter else {})
    inputs |= context.agreeing_input
    step = context.step(
        name,
        settings={"task": context.task.settings(), "numerics": context.numerics_settings()},
        inputs=inputs,
        parts=test.parts,
        numerics=context.serving_numerics,
    )
    served = adapter.name if adapter else None
    job = PredictJob(step, test, served, context.task.max_tokens, context.agreeing_path)
    return Wanted(job, model.name, adapter)


def _fingerprint(step: Step) -> str:
    """What identifies a step before it is committed: its settings, inputs and parts."""
    record = step.record()
    same = {key: record[key] for key in ("settings", "inputs", "parts")}
    return storage.digest(json.dumps(same, sort_keys=True).encode())


def _commit(context: Context, item: Wanted) -> None:
    job, step = item.job, item.job.step
    sources = {d.name: d.digest() for d in job.drafts} if isinstance(job, JustifyJob) else {}
    if committed := step.committed():
        _check_sources(context, step, committed["metrics"].get("sources", {}), sources)
        return
    with context.progress.slow(f"count {step.name}", len(step.parts)) as bar:
        found = counted(job, lambda: context.resources, bar.advance)
    sums = found.sums
    check_errors(context, step.name, sums["num_errors"], sums["num_rows"], found.first_error)
    names = ("num_errors", "num_unreadable", "num_tokens", "num_prompt_tokens")
    metrics: dict[str, Any] = {name: sums[name] for name in names}
    metrics |= {"sources": sources} if sources else {}
    metrics |= {"cost": _cost(item.endpoint, sums)} if item.endpoint else {}
    metrics |= accuracy_metrics(step, context.task) if isinstance(job, PredictJob) else {}
    context.run.commit(step, metrics, measure=lambda _: found.facts)
    if isinstance(job, PredictJob):
        _track(context, step.name, metrics["accuracy"])


def _track(context: Context, step: str, accuracy: float) -> None:
    """eval/accuracy and eval/validation by round; the untouched model's beside them."""
    match step.split("/"):
        case ["rounds", number, kind]:
            context.trackers.log("eval", {"accuracy" if kind == "evaluate" else kind: accuracy}, int(number))
        case ["base", _]:
            context.trackers.log("eval", {"untouched": accuracy}, 0)


def _cost(endpoint: EndpointConfig, counted: Mapping[str, int]) -> float:
    """Money, in the unit of the configured prices."""
    prompt, completion = counted["num_prompt_tokens"], counted["num_tokens"]
    return (prompt * endpoint.prompt_price + completion * endpoint.completion_price) / 1e6


def _check_sources(context: Context, step: Step, then: dict[str, str], now: dict[str, str]) -> None:
    """Drafts that were deleted and sampled anew make the justifications built on the old ones stale."""
    if changed := [
        f"inputs.{n}: {then.get(n)} in the run directory, {d} now" for n, d in now.items() if then.get(n) != d
    ]:
        begun = [name for name, _ in read_steps(context.run.root)]
        raise refusal(context.run.root, step.name, changed, begun[begun.index(step.name) + 1 :])
