"""The rounds: warm up, then retrieve, collaborate, select and evolve, as method.md's table has them.

Invariant: this reads as the algorithm; a step that is committed returns at once, so there is no resume in here.
"""

import signal
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from semievol_ray import logs
from semievol_ray.adoption import adopting
from semievol_ray.checks import check_addresses, check_method, check_models, check_training
from semievol_ray.clean import clean_as_kept
from semievol_ray.config import RunConfig
from semievol_ray.deadline import Deadline
from semievol_ray.ending import ended_by
from semievol_ray.errors import NothingAcceptedError
from semievol_ray.extras import check_extras
from semievol_ray.methodconfig import slug
from semievol_ray.preflight import preflight
from semievol_ray.progress import Progress
from semievol_ray.runs import Run, Step, read_manifest
from semievol_ray.servable import check_servable
from semievol_ray.stages.answer import Asked, Warm, answer, answer_round, evaluation
from semievol_ray.stages.context import Adapter, Context
from semievol_ray.stages.cutter import means_of
from semievol_ray.stages.distinct import distinct
from semievol_ray.stages.ingest import Data, ingest
from semievol_ray.stages.learning import examples_of, fine_tuned, imported
from semievol_ray.stages.metrics import RunMetrics
from semievol_ray.stages.pools import round_pool
from semievol_ray.stages.select import Answered
from semievol_ray.stages.selecting import Selection, check_feasible, select_round
from semievol_ray.stages.showing import demonstrations_of, shown_of
from semievol_ray.stages.train import Accepted, Learned
from semievol_ray.tracking.trackers import open_trackers

BASE_EVALUATION = "base/evaluate"


@dataclass(frozen=True)
class Finished:
    """A run that reached its end: its folder, and the adapter that it hands over with the round that made it."""

    root: str
    adapter: Adapter
    round: int
    last_round: int


@dataclass(frozen=True)
class Evolved:
    """Where a run stands after a round (0: the warm-up): what was accepted so far, and the model made of it.

    `adapter` is None where there was no warm-up: M_base stands in.
    """

    number: int
    adapter: Adapter | None
    examples: Step
    accepted: tuple[Accepted, ...] = ()
    selections: tuple[Selection, ...] = ()


def run(
    config: RunConfig,
    root: str,
    progress: Progress | None = None,
    *,
    share: str | None = None,
    deadline: Deadline | None = None,
) -> Finished:
    """Do what is left of a run in the folder `root`. Raises what errors.py names; running again continues.

    `share` is a folder in which runs find steps that another of them made with the same settings and inputs. At the
    `deadline` DeadlineReached says what is left.
    """
    progress = progress or Progress()
    check_addresses(config)
    check_models(config)
    check_method(config)
    check_training(config)
    check_extras(config)
    check_servable(config)
    settings = config.model_dump(mode="json")
    manifest = {"name": config.name, "config": settings}
    with (
        Run.open(root, manifest, share=share) as held,
        ExitStack() as closing,
        terminated_as_interrupt(),
        ended_by(deadline, held, config),
    ):
        closing.enter_context(logs.to_file(held.log_path))
        held.listen(adopting(held, manifest, config))
        held.listen(logs.EventLog(config.name))
        held.listen(RunMetrics(config.name))
        trackers = open_trackers(config.report_to, held.root, config.name, settings, progress.say)
        closing.callback(trackers.close)
        context = Context(held, config, progress, closing, trackers, preflight, deadline)
        if config.speed.address and "final" not in read_manifest(held.root):
            assert context.resources  # a cluster that does not answer or suffice is known before the data are read
        finished = evolve(context)
        held.save_manifest({**manifest, "final": {"round": finished.round, "last_round": finished.last_round}})
        return finished


def evolve(context: Context) -> Finished:
    """Algorithm 1: M_warm from D_L, then rounds of pseudo-labels, each evolving M_base on all that was accepted."""
    data = distinct(context, ingest(context.run, context.config, context.task, means_of(context)))
    check_feasible(context, data)
    done = [warm_up(context, data)]
    others = warm_others(context, data, done[0].examples)
    for number in range(1, context.config.method.rounds.num + 1):
        if is_used_up(context, number, data, done[-1]):
            break
        try:
            done.append(one_round(context, number, data, done, others))
            clean_as_kept(context.run, context.config)
        except NothingAcceptedError:
            _evaluate(context, data, done[-1])  # what earlier rounds made stands, and its worth is known
            raise
        if has_stalled(context, data, done):
            break
    _evaluate(context, data, done[-1])
    clean_as_kept(context.run, context.config)
    best = best_of(context, data, done)
    assert best.adapter is not None
    return Finished(context.run.root, best.adapter, best.number, done[-1].number)


def warm_up(context: Context, data: Data) -> Evolved:
    """M_warm = fine-tune(M_base, D_L), or the adapter that the configuration names (in-weight propagation)."""
    examples = examples_of(context, "rounds/0000", Learned(data.labeled))
    path = context.config.method.warm_adapter
    if not context.config.method.warm_up:
        return Evolved(0, None, examples)
    if path:
        return Evolved(0, imported(context, "rounds/0000", path), examples)
    return Evolved(0, fine_tuned(context, "rounds/0000", examples, validation=data.validation), examples)


def warm_others(context: Context, data: Data, examples: Step) -> dict[str, Adapter]:
    """The warm-up, once, of every other base that a collaborator uses with an adapter; it does not evolve."""
    student = context.model().name
    models = {c.model for c in context.config.method.collaborators if c.adapter == "warm" and c.model}
    others = sorted({context.model(m).name for m in models} - {student})
    return {
        name: fine_tuned(context, f"bases/{slug(name)}", examples, model=name, validation=data.validation)
        for name in others
    }


def one_round(
    context: Context, number: int, data: Data, done: Sequence[Evolved], others: dict[str, Adapter]
) -> Evolved:
    """Retrieve, draft, vote, justify, select, evolve. Raises NothingAcceptedError when the round's guard stops it."""
    last = done[-1]
    shown = shown_of(context, number, done[0].examples, last.examples)
    pool = round_pool(context, number, data, [s.pool for s in last.selections])
    folds = [_asked(context, number, "", pool, data.pool.rows, shown)]
    if data.dev:
        rows = round_pool(context, number, data, [s.dev for s in last.selections if s.dev], dev=True)
        folds.append(_asked(context, number, "dev/", rows, data.dev.rows, shown))
    justified = answer_round(context, number, folds, Warm(last.adapter, others), _due(data, done))
    answered = [Answered(fold.pool, step) for fold, step in zip(folds, justified, strict=True)]
    first = last.selections[0].pool if last.selections else None
    selection = select_round(context, number, data, answered[0], answered[1] if data.dev else None, first)
    return evolved(context, number, data, last, Accepted(pool, selection.pool, number), selection)


def evolved(
    context: Context, number: int, data: Data, last: Evolved, accepted: Accepted, selection: Selection
) -> Evolved:
    """M_evol = fine-tune(M_base, D_L + everything accepted so far); with `reanswer: all`, accepted this time."""
    again = context.config.method.rounds.reanswer == "all"
    kept = (accepted,) if again else (*last.accepted, accepted)
    people = tuple(step for from_round, step in data.annotations if from_round <= number)
    folder = f"rounds/{number:04d}"
    examples = examples_of(context, folder, Learned(data.labeled, people, kept))
    adapter = fine_tuned(context, folder, examples, validation=data.validation)
    return Evolved(number, adapter, examples, kept, (*last.selections, selection))


def is_used_up(context: Context, number: int, data: Data, last: Evolved) -> bool:
    """Whether earlier rounds accepted, or people labeled, every row of the pool."""
    pool = round_pool(context, number, data, [s.pool for s in last.selections])
    if (pool.committed() or {})["num_rows"]:
        return False
    context.progress.say(f"round {number}: no row of the pool is left to answer; stopping here")
    return True


def has_stalled(context: Context, data: Data, done: Sequence[Evolved]) -> bool:
    """Whether the last `patience` rounds all brought no better accuracy on the validation fold."""
    patience = context.config.method.rounds.patience
    if not patience or data.validation is None:
        return False
    found = [_validated(context, data.validation, state) for state in done]
    if len(found) <= patience or max(found[-patience:]) > max(found[:-patience]):
        return False
    context.progress.say(f"round {done[-1].number}: no better on data.validation for {patience} rounds; stopping here")
    return True


def best_of(context: Context, data: Data, done: Sequence[Evolved]) -> Evolved:
    """The state with the best accuracy on the validation fold, the earliest of equals; the last without one."""
    if data.validation is None:
        return done[-1]
    validation = data.validation
    made = [state for state in done if state.adapter]
    return max(made, key=lambda state: (_validated(context, validation, state), -state.number))


def _asked(context: Context, number: int, fold: str, rows: Step, whole: Step, shown: Step) -> Asked:
    demonstrations = demonstrations_of(context, number, fold, rows, whole, shown)
    return Asked(f"rounds/{number:04d}/{fold}".rstrip("/"), rows, shown, demonstrations)


def _due(data: Data, done: Sequence[Evolved]) -> list[tuple[str, Step, Adapter | None]]:
    """Evaluations that share an engine with this round's drafts: of the untouched model, and of the last one made."""
    if data.test is None:
        return []
    last = done[-1]
    first: list[tuple[str, Step, Adapter | None]] = [(BASE_EVALUATION, data.test, None)] if last.number == 0 else []
    if last.adapter is None:
        return first
    return [*first, (f"rounds/{last.number:04d}/evaluate", data.test, last.adapter)]


def _evaluate(context: Context, data: Data, state: Evolved) -> None:
    if data.test and state.adapter:
        name = f"rounds/{state.number:04d}/evaluate"
        answer(context, "evaluate", [evaluation(context, name, data.test, state.adapter)])


def _validated(context: Context, validation: Step, state: Evolved) -> float:
    """Accuracy on the validation fold, which stops rounds and sets nothing else."""
    wanted = evaluation(context, f"rounds/{state.number:04d}/validation", validation, state.adapter)
    answer(context, "validate", [wanted])
    return float((wanted.job.step.committed() or {})["metrics"]["accuracy"])


class terminated_as_interrupt:  # noqa: N801
    """Within the block SIGTERM stops as cleanly as Ctrl-C; only the main thread can set it."""

    def __enter__(self) -> None:
        self._old = None
        if threading.current_thread() is threading.main_thread():
            self._old = signal.signal(signal.SIGTERM, self._interrupt)

    def __exit__(self, *_: object) -> None:
        if self._old is not None:
            signal.signal(signal.SIGTERM, self._old)

    @staticmethod
    def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG004
        raise KeyboardInterrupt


def default_root(config: RunConfig) -> str:
    """Where a run lies when no --run is given: runs/<name> in the working directory."""
    return str(Path("runs") / config.name)
