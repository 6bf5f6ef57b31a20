"""The models that SemiEvol is held against and that need no pseudo-label: untouched, labels only, matched, oracle.

Invariant: each is made by the steps a run has, in a run directory of its own, and evaluated as a run's models are.
"""

from contextlib import ExitStack
from dataclasses import dataclass

from semievol_ray.config import RunConfig, TrainConfig
from semievol_ray.driver import BASE_EVALUATION, terminated_as_interrupt
from semievol_ray.engines.validating import eval_steps
from semievol_ray.errors import DataError
from semievol_ray.progress import Progress
from semievol_ray.runs import Run, Step
from semievol_ray.stages.answer import answer, evaluation
from semievol_ray.stages.context import Adapter, Context
from semievol_ray.stages.cutter import means_of
from semievol_ray.stages.distinct import distinct
from semievol_ray.stages.ingest import Data, ingest
from semievol_ray.stages.learning import examples_of, fine_tuned
from semievol_ray.stages.oracle import write_gold_labeled
from semievol_ray.stages.train import Learned
from semievol_ray.study.variants import Making

MATCHED, ORACLE = "sft_matched", "oracle"
EVALUATIONS = {
    Making.UNTOUCHED: BASE_EVALUATION,
    Making.LABELS: "rounds/0000/evaluate",
    Making.MATCHED: f"{MATCHED}/evaluate",
    Making.GOLD: f"{ORACLE}/evaluate",
}
"""The evaluation step of each reference in its run directory."""


@dataclass(frozen=True)
class Course:
    """How long a fine-tuning was: the optimizer steps it took, and the examples it had."""

    num_steps: int
    num_examples: int


def reference(
    making: Making, config: RunConfig, root: str, progress: Progress, *, share: str, course: Course | None = None
) -> Step:
    """Do what is left of one reference in the folder `root`; its committed evaluation.

    course: of the fine-tuning that sft_matched is matched with. Raises what a run raises, and DataError for an oracle
    without gold.
    """
    manifest = {"name": config.name, "config": config.model_dump(mode="json")}
    with Run.open(root, manifest, share=share) as held, ExitStack() as closing, terminated_as_interrupt():
        context = Context(held, config, progress, closing)
        data = _data(context)
        assert data.test is not None
        wanted = evaluation(context, EVALUATIONS[making], data.test, _adapter(context, data, making, course))
        answer(context, "evaluate", [wanted])
        return wanted.job.step


def _data(context: Context) -> Data:
    """The data as a run of this configuration learns from them; what is only reported of them is reported there."""
    data = ingest(context.run, context.config, context.task, means_of(context))
    return distinct(context, data) if context.config.data.near_duplicates.action == "drop" else data


def _adapter(context: Context, data: Data, making: Making, course: Course | None) -> Adapter | None:
    match making:
        case Making.LABELS:
            return fine_tuned(context, "rounds/0000", _labels(context, data), validation=data.validation)
        case Making.MATCHED:
            assert course is not None
            longer = matched(context.config.train, course)
            return fine_tuned(context, MATCHED, _labels(context, data), train=longer, validation=data.validation)
        case Making.GOLD:
            examples = examples_of(context, ORACLE, Learned(data.labeled, (_gold_labeled(context, data),)))
            return fine_tuned(context, ORACLE, examples, validation=data.validation)
    return None


def matched(train: TrainConfig, course: Course) -> TrainConfig:
    """Fine-tuning for as many steps as another one took; with early stopping validated after as many steps, too.

    It does not stop early, though, which few labels soon would: the best checkpoint of all these steps is handed over.
    """
    rule = train.early_stopping
    if rule is not None:
        every = eval_steps(rule, course.num_examples, train.train_batch_size)
        rule = rule.model_copy(update={"eval_steps": every, "patience": course.num_steps})
    return train.model_copy(update={"max_steps": course.num_steps, "early_stopping": rule})


def _labels(context: Context, data: Data) -> Step:
    """The examples of every warm-up, under their own name, so that they are shared with it."""
    return examples_of(context, "rounds/0000", Learned(data.labeled))


def _gold_labeled(context: Context, data: Data) -> Step:
    """The pool with its gold answers. Raises DataError where a row has none."""
    inputs = {"unlabeled": data.pool.rows.digest(), "gold": data.pool.gold.digest()}
    step = context.step(f"{ORACLE}/pool", settings={}, inputs=inputs, parts=data.pool.rows.parts)
    if not step.committed():
        assert context.resources
        if unknown := write_gold_labeled(step, data.pool):
            raise DataError(
                f"{context.config.data.unlabeled.path}: {unknown} rows of the pool have no gold answer, and the oracle "
                "is the model that was given them all. Leave the oracle out of the study, or give a file with answers."
            )
        context.run.commit(step, {})
    return step
