"""`semievol evaluate`: greedy accuracy of a run's last adapter, on its own test split or on another file.

Invariant: a file is evaluated under its content hash inside the run directory, so none is answered twice.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from semievol_ray import storage, tables
from semievol_ray.config import Source
from semievol_ray.driver import terminated_as_interrupt
from semievol_ray.errors import DataError, StorageError, UserError
from semievol_ray.extras import check_extras
from semievol_ray.handover import config_of, final_round, reopened, require_same_base, trained, unfinished
from semievol_ray.preflight import serving_preflight
from semievol_ray.progress import Progress
from semievol_ray.runs import Run, read_steps
from semievol_ray.stages.answer import answer, evaluation
from semievol_ray.stages.context import Adapter, Context
from semievol_ray.stages.ingest import ingest_test
from semievol_ray.stages.learning import adapter_of


@dataclass(frozen=True)
class Evaluation:
    """A committed evaluation: the step it is stored in, what was evaluated on, and the step's metrics."""

    step: str
    data: str
    metrics: Mapping[str, Any]


def stored_evaluation(root: str) -> Evaluation:
    """The evaluation of the run's last adapter on its own test split. Raises UserError where there is none."""
    config = config_of(root)
    if config.data.test is None:
        raise UserError(f"{root} has no test split in its configuration. Name a file with answers: --data FILE.")
    name = f"rounds/{final_round(root, config):04d}/evaluate"
    committed = dict(read_steps(root)).get(name, {}).get("committed")
    if not committed:
        raise unfinished(root, name)
    return Evaluation(name, config.data.test.path, committed["metrics"])


def evaluate_file(
    root: str,
    path: str,
    progress: Progress | None = None,
    *,
    address: str | None = None,
    replicas: tuple[int, int] | None = None,
) -> Evaluation:
    """Answer the rows of a file with the run's last adapter, as its own test split was answered.

    address: the Ray cluster to join; RAY_ADDRESS, or one started here, where there is none. replicas: the fewest and
    the most engines; the run's own number where None.
    Steps lie under evaluations/<first 8 of the file's SHA-256>/. Raises DataError for bad rows, UserError when the run
    is not finished, DriftError when the base model is no longer the one the adapter was trained on.
    """
    config, source = reopened(root, address, replicas), Source.model_validate({"path": storage.absolute(path)})
    folder = f"evaluations/{_digest(source.path)[:8]}"
    number = final_round(root, config)
    check_extras(config)
    trained(root, number)
    with Run.open(root, {}, command="evaluate") as held, ExitStack() as closing, terminated_as_interrupt():
        context = Context(held, config, progress or Progress(), closing, preflight=serving_preflight)
        tuning = trained(held.root, number)
        require_same_base(context, tuning)
        test = ingest_test(held, config, context.task, source, f"{folder}/data")
        adapter: Adapter = adapter_of(tuning, config.name)
        wanted = evaluation(context, f"{folder}/round-{number:04d}", test, adapter)
        answer(context, "evaluate", [wanted])
        committed = wanted.job.step.committed()
        assert committed is not None
        return Evaluation(wanted.job.step.name, source.path, committed["metrics"])


def render(found: Evaluation) -> str:
    """The accuracy with its interval and the per-class table, as text that fits 80 columns."""
    m = found.metrics
    lines = [
        tables.paragraph(f"data: {found.data}"),
        f"accuracy: {tables.percent(m['accuracy'])}",
        f"95% interval: {tables.interval(m['accuracy_low'], m['accuracy_high'])}",
        f"rows: {tables.count(m['num_rows'])} ({tables.count(m['num_unreadable'])} unreadable)",
    ]
    rows = [
        (c["label"], tables.count(c["support"]), *(tables.percent(c[key]) for key in ("precision", "recall", "f1")))
        for c in m["classes"]
    ]
    lines += ["", tables.table(("answer", "rows", "precision", "recall", "F1"), rows)] if rows else []
    return "\n".join(lines)


def _digest(path: str) -> str:
    try:
        return storage.digest(storage.read(path))
    except StorageError as error:
        raise DataError(str(error)) from error
