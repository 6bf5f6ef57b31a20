"""Ingest: input files -> parts with content ids, duplicates collapsed within the pool and removed across splits.

Invariant: priority test > dev, validation > labeled > unlabeled: the lower split loses a row that stands in a higher
one; test is never reduced. Gold answers of unlabeled and dev rows go to tables of their own.
"""

from dataclasses import dataclass

from semievol_ray.config import RunConfig, Source
from semievol_ray.runs import Run, Step
from semievol_ray.stages.cutter import Cutter, Means
from semievol_ray.stages.labels import cut_annotations, cut_labels, cut_test
from semievol_ray.stages.pool import cut_pool
from semievol_ray.tasks import Task


@dataclass(frozen=True)
class Fold:
    """Rows that are answered as the pool is, and their gold answers (null where none is known)."""

    rows: Step
    gold: Step


@dataclass(frozen=True)
class Data:
    """The committed steps of a run's data; None where the configuration asks for no such split.

    `annotations` maps the first round that knows them to rows that people labeled.
    """

    labeled: Step
    pool: Fold
    test: Step | None
    dev: Fold | None
    validation: Step | None
    annotations: tuple[tuple[int, Step], ...] = ()


def ingest(run: Run, config: RunConfig, task: Task, means: Means = Means()) -> Data:  # noqa: B008 - a frozen value
    """Cut the input files into parts; a large pool is read and cut by Ray tasks, which `means` starts Ray for.

    Raises DataError for bad input; skips splits that are committed already.
    """
    cutter = Cutter(run, config, task, means)
    test = ingest_test(run, config, task, config.data.test, means=means) if config.data.test else None
    above: dict[str, Step] = {"test": test} if test else {}
    labels = cut_labels(cutter, above)
    folds: dict[str, Step] = {name: labels[name] for name in ("dev", "validation", "labeled") if name in labels}
    pool = Fold(*cut_pool(cutter, {**above, **folds}))
    annotations: tuple[tuple[int, Step], ...] = ()
    for index, a in enumerate(config.data.annotations):
        earlier = {step.name.rsplit("/", 1)[1]: step for _, step in annotations}
        step = cut_annotations(cutter, index, a.path, {**above, **folds, **earlier})
        annotations += ((a.from_round, step),)
    dev = Fold(labels["dev"], labels["dev_gold"]) if "dev" in labels else None
    return Data(labels["labeled"], pool, test, dev, labels.get("validation"), annotations)


def ingest_test(
    run: Run,
    config: RunConfig,
    task: Task,
    source: Source,
    name: str = "data/test",
    means: Means = Means(),  # noqa: B008 - a frozen value
) -> Step:
    """Cut one file of test rows into the parts of the step `name`; repeats stay. Raises DataError for bad input."""
    return cut_test(Cutter(run, config, task, means), source, name)
