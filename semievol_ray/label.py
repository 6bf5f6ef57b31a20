"""`semievol label`: new rows answered by a run's model, each with its confidence and whether its label is certified.

Invariant: rows are answered as parts of a step under the digest of their file, inside the run: each once, whatever
stopped the command; OUT is written when all are answered, and holds every row of the file in its order.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pyarrow as pa

from semievol_ray import labelfile, schema, storage
from semievol_ray.alignment import check_aligned
from semievol_ray.core.certificate import Certificate, evidence, verdict
from semievol_ray.driver import terminated_as_interrupt
from semievol_ray.extras import check_extras
from semievol_ray.handover import final_round, reopened, require_same_base, trained
from semievol_ray.preflight import serving_preflight
from semievol_ray.progress import Progress
from semievol_ray.runs import Run, Step
from semievol_ray.stages.alone import asked_alone
from semievol_ray.stages.answer import answer
from semievol_ray.stages.certifying import certified, certifying
from semievol_ray.stages.context import Context
from semievol_ray.stages.labelrows import cut_rows, source_of_rows
from semievol_ray.stages.learning import adapter_of
from semievol_ray.tables import count, paragraph, percent


@dataclass(frozen=True)
class Labelled:
    """A file of labels: its rows, those with a label, those that pass (None where nothing is certified), and why."""

    path: str
    round: int
    num_rows: int
    num_labels: int
    num_passed: int | None
    certificate: Certificate


def label_file(
    root: str,
    data: str,
    out: str,
    *,
    number: int | None = None,
    force: bool = False,
    address: str | None = None,
    replicas: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> Labelled:
    """Answer the rows of a file with the model of round `number` (the one that the run handed over) and write `out`.

    address: the Ray cluster to join; RAY_ADDRESS, or one started here, where there is none. replicas: the fewest and
    the most engines; the run's own number where None.
    Steps lie under labels/<first 8 of the file's SHA-256>/, the certificate's under labels/certificates/. Raises
    UserError for an unfinished run or an `out` that is there, DataError for bad rows, DriftError for another base.
    """
    out, data = storage.absolute(out), data if "://" in data else storage.absolute(data)
    labelfile.check_out(out, force=force)
    config = reopened(root, address, replicas)
    check_extras(config)
    number = final_round(root, config) if number is None else number
    trained(root, number)
    folder = f"labels/{source_of_rows(data)[1][:8]}"
    lenient = config.model_copy(update={"max_error_rate": 1.0})  # a row without an answer says so in the file
    with Run.open(root, {}, command="label") as held, ExitStack() as closing, terminated_as_interrupt():
        context = Context(held, lenient, progress or Progress(), closing, preflight=serving_preflight)
        tuning = trained(held.root, number)
        require_same_base(context, tuning)
        adapter = adapter_of(tuning, config.name)
        rows = cut_rows(context, data, f"{folder}/data")
        wanted = asked_alone(context, f"{folder}/round-{number:04d}", rows, adapter)
        found = certifying(context, number, adapter, wanted.job.step.numerics())
        answer(context, "label", [wanted, *([found.dev, found.others] if found else [])])
        return _written(out, number, rows, wanted.job.step, certified(context, found))


def render(done: Labelled) -> str:
    """What was written and what a pass means, as text that fits 80 columns."""
    passed = "" if done.num_passed is None else f", {count(done.num_passed)} of them pass"
    lines = [f"{done.path}: {count(done.num_rows)} rows, {count(done.num_labels)} with a label{passed}"]
    if done.certificate.tau is None:
        why = done.certificate.reason
        return "\n".join([*lines, paragraph(f"passes is {'null' if done.num_passed is None else 'false'}: {why}.")])
    target, level = percent(done.certificate.target), percent(done.certificate.level)
    means = (
        f"passes: H is at most {done.certificate.tau:.4f}; {evidence(done.certificate)} (asked for: {target}, {level})."
    )
    return "\n".join([*lines, paragraph(means)])


def _written(out: str, number: int, rows: Step, answered: Step, certificate: Certificate) -> Labelled:
    num_rows = num_labels = num_passed = 0
    with labelfile.written(out) as add:
        for table in labels_of(rows, answered, certificate):
            num_rows += table.num_rows
            num_labels += table.num_rows - table.column("label").null_count
            num_passed += table.column("passes").to_pylist().count(True)
            add(table)
    passed = None if certificate.target is None else num_passed
    return Labelled(out, number, num_rows, num_labels, passed, certificate)


def labels_of(rows: Step, answered: Step, certificate: Certificate) -> Iterator[pa.Table]:
    """LABELS, part by part in order. Raises StorageError for answers to other rows."""
    tables = answered.read_parts(schema.JUSTIFIED, ["id", "label", "confidence", "error"])
    asked = rows.read_parts(schema.UNLABELED, ["id", "question"])
    for part, of_part, table in zip(rows.parts, asked, tables, strict=True):
        check_aligned(part, (rows, of_part), (answered, table))
        yield _labels(of_part, table, certificate)


def _labels(asked: pa.Table, table: pa.Table, certificate: Certificate) -> pa.Table:
    found = [verdict(certificate, row["label"], row["confidence"], row["error"]) for row in table.to_pylist()]
    columns = [
        *asked.columns,
        *(table.column(name) for name in ("label", "confidence")),
        pa.array([passes for passes, _ in found], pa.bool_()),
        pa.array([why for _, why in found], pa.string()),
    ]
    return pa.table(columns, schema=schema.LABELS)
