"""The collaboration of a round: engine groups, the jobs each does in one session, and the steps they commit to.

Invariant: one engine start serves everything its weights are needed for; the student's warm group comes last, because
it justifies what all groups drafted.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from semievol_ray import storage
from semievol_ray.config import CollaboratorConfig
from semievol_ray.drift import refusal
from semievol_ray.engines.base import EngineSpec, Sampling
from semievol_ray.errors import TooManyErrorsError
from semievol_ray.placement import place
from semievol_ray.runs import Step, read_steps
from semievol_ray.stages.context import Adapter, Context
from semievol_ray.stages.draft import DraftJob
from semievol_ray.stages.evaluate import accuracy_metrics
from semievol_ray.stages.ingest import Data
from semievol_ray.stages.justify import JustifyJob
from semievol_ray.stages.predict import PredictJob
from semievol_ray.stages.session import COLUMNS, Job, PartReport, Session, missing, run_session, sequence


@dataclass(frozen=True)
class Wanted:
    """One job with the weights it needs: which model, and whether M_warm's adapter is on it."""

    job: Job
    model: str
    adapter: Adapter | None


def answer_round(
    context: Context,
    number: int,
    data: Data,
    demonstrations: Step | None,
    warm: Adapter,
    evaluated: Sequence[tuple[str, Adapter | None]],
) -> Step:
    """Drafts of every collaborator, justifications, and the evaluations that share their engines; the JUSTIFIED step.

    `evaluated` names evaluation steps and the adapter each is of (None: the untouched model).
    """
    drafts = drafts_of(context, number, data, demonstrations, warm)
    justify = _justify(context, number, data, tuple(d.job.step for d in drafts), warm)
    predictions = [evaluation(context, name, data.test, adapter) for name, adapter in evaluated if data.test]
    answer(context, f"round-{number}", [*predictions, *drafts, justify])
    return justify.job.step


def drafts_of(
    context: Context, number: int, data: Data, demonstrations: Step | None, warm: Adapter | None
) -> list[Wanted]:
    """The drafts of every collaborator; without `warm` none of them may need it."""
    return [_draft(context, number, c, data, demonstrations, warm) for c in context.config.method.collaborators]


def answer(context: Context, name: str, wanted: Sequence[Wanted]) -> None:
    """Run the sessions that bring every wanted step to its commit."""
    for group in _groups(wanted):
        _run_group(context, name, group)
    for item in wanted:
        _commit(context, item.job)


def evaluation(context: Context, name: str, test: Step, adapter: Adapter | None) -> Wanted:
    """The evaluation of one model on a test split."""
    return _predict(context, name, test, adapter)


def _draft(
    context: Context, number: int, c: CollaboratorConfig, data: Data, demonstrations: Step | None, warm: Adapter | None
) -> Wanted:
    adapter = warm if c.adapter == "warm" else None
    model = context.model(c.model)
    shown = demonstrations if c.demonstrations else None
    inputs = {"unlabeled": data.unlabeled.digest(), "model": model.digest}
    inputs |= {"adapter": adapter.digest} if adapter else {}
    inputs |= {"labeled": data.labeled.digest(), "retrieve": shown.digest()} if shown else {}
    settings = {
        "task": context.task.settings(),
        "collaborator": c.model_dump(mode="json", exclude={"name"}) | {"model": model.name},
        "numerics": context.numerics_settings(),
        "seed": context.config.seed,
    }
    step = context.step(
        f"rounds/{number:04d}/drafts/{c.name}",
        settings=settings,
        inputs=inputs,
        parts=data.unlabeled.parts,
        numerics=context.serving_numerics,
    )
    sampling = Sampling(
        c.sampling.temperature, c.sampling.max_tokens or context.task.max_tokens, c.sampling.top_p, c.sampling.top_k
    )
    name = adapter.name if adapter else None
    job = DraftJob(step, data.unlabeled, data.labeled, shown, c.demonstrations, sampling, name)
    return Wanted(job, model.name, adapter)


def _justify(context: Context, number: int, data: Data, drafts: tuple[Step, ...], warm: Adapter) -> Wanted:
    method = context.config.method
    settings = {
        "task": context.task.settings(),
        "justify": method.justify.model_dump(mode="json"),
        "confidence": method.confidence,
        "numerics": context.numerics_settings(),
    }
    inputs = {"unlabeled": data.unlabeled.digest(), "model": context.model().digest, "adapter": warm.digest}
    inputs |= {f"drafts/{d.name.rsplit('/', 1)[1]}": _fingerprint(d) for d in drafts}
    step = context.step(
        f"rounds/{number:04d}/justify",
        settings=settings,
        inputs=inputs,
        parts=data.unlabeled.parts,
        numerics=context.serving_numerics,
    )
    sampling = Sampling(0.0, method.justify.max_tokens or context.task.max_tokens)
    job = JustifyJob(step, data.unlabeled, drafts, sampling, warm.name, method.confidence)
    return Wanted(job, context.model().name, warm)


def _predict(context: Context, name: str, test: Step, adapter: Adapter | None) -> Wanted:
    model = context.model()
    inputs = {"test": test.digest(), "model": model.digest} | ({"adapter": adapter.digest} if adapter else {})
    step = context.step(
        name,
        settings={"task": context.task.settings(), "numerics": context.numerics_settings()},
        inputs=inputs,
        parts=test.parts,
        numerics=context.serving_numerics,
    )
    job = PredictJob(step, test, adapter.name if adapter else None, context.task.max_tokens)
    return Wanted(job, model.name, adapter)


def _fingerprint(step: Step) -> str:
    """What identifies a step before it is committed: its settings, inputs and parts."""
    record = step.record()
    same = {key: record[key] for key in ("settings", "inputs", "parts")}
    return storage.digest(json.dumps(same, sort_keys=True).encode())


def _groups(wanted: Sequence[Wanted]) -> list[list[Wanted]]:
    """Wanted jobs by the weights that must be resident: a base model and, where adapters are merged, which adapter."""
    groups: dict[tuple[str, str, str], list[Wanted]] = {}
    for item in wanted:
        if not item.job.step.missing_parts():
            continue
        numerics = item.job.step.numerics()
        merged = item.adapter.digest if item.adapter and numerics["adapter_serving"] == "merged" else ""
        groups.setdefault((item.model, merged, json.dumps(numerics, sort_keys=True)), []).append(item)
    justifies = {key: any(isinstance(i.job, JustifyJob) for i in group) for key, group in groups.items()}
    return [groups[key] for key in sorted(groups, key=lambda key: justifies[key])]


def _run_group(context: Context, name: str, group: Sequence[Wanted]) -> None:
    session = _session(context, name, group)
    resources = context.resources
    rows = {job.step.name: _num_rows(job) for job in session.jobs}
    left = sum(_part_lengths(job, job.step.missing_parts()) for job in session.jobs)
    errors: dict[str, int] = dict.fromkeys(rows, 0)
    run = context.run

    def on_report(report: PartReport) -> None:
        run.event("part_committed", **report.__dict__)
        bar.advance(report.num_rows)
        errors[report.step] += report.num_errors
        _check_errors(context, report.step, errors[report.step], rows[report.step], report.first_error)

    run.event(
        "session_started",
        session=session.name,
        jobs=[j.step.name for j in session.jobs],
        num_parts=len(missing(session)),
    )
    with context.progress.step(session.name, left, "answers") as bar:
        run_session(
            session,
            place(context.config.speed, resources),
            on_report,
            lambda stats: run.event("session_ended", session=session.name, stats=stats),
        )


def _session(context: Context, name: str, group: Sequence[Wanted]) -> Session:
    config, first = context.config, group[0]
    numerics = first.job.step.numerics()
    adapters = {i.adapter.name: i.adapter.path for i in group if i.adapter}
    merged = numerics["adapter_serving"] == "merged"
    spec = EngineSpec(
        kind=config.numerics.engine,
        model=first.model,
        model_path=context.model(first.model).path,
        merged=next(iter(adapters.values()), None) if merged else None,
        adapters={} if merged else adapters,
        dtype=numerics["dtype"],
        max_model_len=config.numerics.max_model_len,
        max_lora_rank=config.train.lora_r,
        seed=random.Random(f"{config.seed}/{name}").randrange(2**31),
        num_threads=place(config.speed, context.resources).num_threads,
        on_gpu=context.on_gpu,
        answer_format=context.task.format,
        numerics=_engine_numerics(config.numerics.quantization, config.numerics.engine_kwargs),
        speed=config.speed.engine_kwargs,
    )
    who = "warm" if adapters else "base"
    jobs = sequence([item.job for item in group])
    rows = max(_part_lengths(job, job.step.parts[:1]) for job in jobs)
    return Session(f"{name} {who}", spec, context.task, config.numerics.template_date, jobs, max(rows, 1))


def _engine_numerics(quantization: str | None, engine_kwargs: dict[str, Any]) -> dict[str, Any]:
    return {**({"quantization": quantization} if quantization else {}), **engine_kwargs}


def _commit(context: Context, job: Job) -> None:
    step = job.step
    sources = {d.name: d.digest() for d in job.drafts} if isinstance(job, JustifyJob) else {}
    if committed := step.committed():
        _check_sources(context, step, committed["metrics"].get("sources", {}), sources)
        return
    tables = [step.read_part(part, COLUMNS[type(job)]) for part in step.parts]
    errors = [e for table in tables for e in table.column("error").to_pylist() if e is not None]
    num_rows = sum(table.num_rows for table in tables)
    _check_errors(context, step.name, len(errors), num_rows, errors[0] if errors else None)
    metrics: dict[str, Any] = {
        "num_errors": len(errors),
        "num_unreadable": sum(table.column("answer").null_count for table in tables) - len(errors),
        "num_tokens": sum(sum(table.column("num_tokens").to_pylist()) for table in tables),
        "num_prompt_tokens": sum(sum(table.column("num_prompt_tokens").to_pylist()) for table in tables),
    }
    metrics |= {"sources": sources} if sources else {}
    metrics |= accuracy_metrics(step) if isinstance(job, PredictJob) else {}
    context.run.commit(step, metrics)


def _check_sources(context: Context, step: Step, then: dict[str, str], now: dict[str, str]) -> None:
    """Drafts that were deleted and sampled anew make the justifications built on the old ones stale."""
    if changed := [
        f"inputs.{n}: {then.get(n)} in the run directory, {d} now" for n, d in now.items() if then.get(n) != d
    ]:
        begun = [name for name, _ in read_steps(context.run.root)]
        raise refusal(context.run.root, step.name, changed, begun[begun.index(step.name) + 1 :])


def _check_errors(context: Context, step: str, num_errors: int, num_rows: int, example: str | None) -> None:
    allowed = context.config.max_error_rate
    if num_errors > allowed * num_rows:
        raise TooManyErrorsError(
            f"{step}: {num_errors} of {num_rows} rows ended as engine_error, more than max_error_rate {allowed:g} "
            f"allows; for example: {example}. Mend the cause or raise max_error_rate, and run the same command again."
        )


def _num_rows(job: Job) -> int:
    return _part_lengths(job, job.step.parts)


def _part_lengths(job: Job, parts: Sequence[str]) -> int:
    """Rows in these parts of a job's input, from the files' footers."""
    source = job.test if isinstance(job, PredictJob) else job.pool
    return sum(storage.num_rows(source.part_path(part)) for part in parts)
