"""The rows of a run's splits before it is run: those it committed, else its files cut in a folder for trial.

Invariant: the run's own folder is only read; the trial folder lies beside it, where its storage is, and is removed.
"""

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from semievol_ray import logs, storage
from semievol_ray.check import planned_steps
from semievol_ray.config import RunConfig
from semievol_ray.core.workload import Rounds, Splits
from semievol_ray.errors import StorageError
from semievol_ray.preflight import preflight
from semievol_ray.progress import Progress
from semievol_ray.runs import Run, read_steps
from semievol_ray.stages.context import Context
from semievol_ray.stages.cutter import means_of
from semievol_ray.stages.distinct import distinct
from semievol_ray.stages.ingest import ingest

Records = Mapping[str, Mapping[str, Any]]


@contextmanager
def trial(
    config: RunConfig, root: str, progress: Progress, look: Callable[[Context], None] = preflight
) -> Iterator[Context]:
    """A context in a folder beside the run's, gone after the block; its Ray is started or joined when it is used."""
    folder = f"{storage.absolute(root)}.trial-{uuid.uuid4().hex[:8]}"
    try:
        with ExitStack() as closing, Run.open(folder, {"name": config.name, "config": {}}) as run:
            closing.enter_context(logs.to_file(run.log_path))
            yield Context(run, config, progress, closing, preflight=look)
    finally:
        with suppress(StorageError):  # what the block ends with matters more than a folder left behind
            storage.remove_folder(folder)


def splits_of(context: Context, root: str) -> Splits:
    """The rows of every split: as the run in `root` has them, else as its files come out when they are cut now.

    Raises DataError for bad input.
    """
    found = committed_splits(context.config, root)
    if found:
        return found
    data = distinct(context, ingest(context.run, context.config, context.task, means_of(context)))
    return Splits(
        labeled=data.labeled.num_rows(),
        pool=data.pool.rows.num_rows(),
        test=data.test.num_rows() if data.test else 0,
        dev=data.dev.rows.num_rows() if data.dev else 0,
        validation=data.validation.num_rows() if data.validation else 0,
    )


def committed_splits(config: RunConfig, root: str) -> Splits | None:
    """The rows of a run's splits once all of them are committed; None before that, or without a run."""
    records = records_at(root)
    data = [name for name in planned_steps(config) if name.startswith("data/") and not name.endswith("embeddings")]
    if not all(records.get(name, {}).get("committed") for name in data):
        return None
    num = {name: record["committed"]["num_rows"] for name, record in records.items() if record.get("committed")}
    of = {name: num.get(f"data/distinct/{name}", num.get(f"data/{name}", 0)) for name in _SPLITS}
    return Splits(of["labeled"], of["unlabeled"], of["test"], of["dev"], of["validation"])


_SPLITS = ("labeled", "unlabeled", "test", "dev", "validation")


def records_at(root: str) -> Records:
    """step.json of every step in a run directory, by name; empty where there is no run."""
    return dict(read_steps(root)) if storage.exists(f"{root}/manifest.json") else {}


def rounds_of(config: RunConfig, accepted: float | None = None) -> Rounds:
    """The rounds as arithmetic; `accepted` is the share that a rule other than the percentile accepts, if known."""
    method = config.method
    theta = float(getattr(method.select, "theta", accepted if accepted is not None else 0.5))
    return Rounds(method.rounds.num, accepted if accepted is not None else theta, method.rounds.reanswer == "rejected")
