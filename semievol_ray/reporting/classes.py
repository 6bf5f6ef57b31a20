"""Answers one by one: precision and recall of each, and what is taken for what.

Invariant: at most MOST_PARTS parts of predictions are read, and a matrix of fewer rows than there are says so.
"""

import math
from collections import Counter
from collections.abc import Sequence

from markupsafe import Markup

from semievol_ray import schema, tables
from semievol_ray.errors import StorageError
from semievol_ray.reporting import charts, page
from semievol_ray.reporting.facts import Facts
from semievol_ray.reporting.page import Section

MOST_PARTS, MOST_ANSWERS = 64, 20
_UNREADABLE = "unreadable"
_TOO_MANY = f"Not shown: there are more than {MOST_ANSWERS} different answers."


def classes_section(facts: Facts) -> Section:
    """Precision, recall and F1 of every answer on the test split, beside what the rounds began with."""
    return Section("classes", "Answer by answer", _classes(facts))


def confusion_section(facts: Facts) -> Section:
    """What the last model takes for what on the test split, and the pseudo-labels on the pool."""
    pieces = [page.heading("On the test split"), _tested(facts), page.heading("Pseudo-labels"), _pseudo(facts)]
    return Section("confusion", "Confusion", page.joined(pieces))


def _classes(facts: Facts) -> Markup:
    found = facts.evaluated()
    if not found:
        return page.absent("No model has been evaluated on a test split.")
    *_, (model, step) = found.items()
    rows = (facts.metrics(step) or {})["classes"]
    if not rows:
        return page.absent("Not shown: the answers of this task are too many to list.")
    first = facts.summary.first
    before = {c["label"]: c["f1"] for c in (facts.metrics(found.get(first, "")) or {}).get("classes", [])}
    compared = bool(before) and step != found[first]
    header = ["answer", "rows", "precision", "recall", "F1", *([f"F1, {first}"] if compared else [])]
    cells = [
        [c["label"], tables.count(c["support"]), *(tables.percent(c[key]) for key in ("precision", "recall", "f1")),
         *([tables.percent(before.get(c["label"]))] if compared else [])]
        for c in rows
    ]  # fmt: skip
    return page.table(f"{model} on the test split", header, cells)


def _tested(facts: Facts) -> Markup:
    found = facts.evaluated()
    if not found:
        return page.absent("No model has been evaluated on a test split.")
    *_, (model, name) = found.items()
    try:
        counts, read = _pairs(facts, name)
    except StorageError as error:
        return page.absent(f"Not shown: {error}")
    labels = sorted({gold for gold, _ in counts} | {answer for _, answer in counts if answer is not None})
    if len(labels) > MOST_ANSWERS:
        return page.absent(_TOO_MANY)
    total = (facts.metrics(name) or {})["num_rows"]
    some = "" if read == total else f", {read:,} of {total:,} rows"
    answers: list[str | None] = [*labels, *([None] if any(answer is None for _, answer in counts) else [])]
    matrix = [[counts[gold, answer] for answer in answers] for gold in labels]
    return _matrix(f"{model}{some}", labels, [_UNREADABLE if a is None else a for a in answers], matrix)


def _pairs(facts: Facts, name: str) -> tuple[Counter[tuple[str, str | None]], int]:
    """How often each (gold answer, prediction) stands in the first parts of an evaluation, and the rows read."""
    counts: Counter[tuple[str, str | None]] = Counter()
    step = facts.step(name)
    for part in step.parts[:MOST_PARTS]:
        table = step.read_part(part, schema.PREDICTIONS)
        counts.update(zip(table.column("gold").to_pylist(), table.column("answer").to_pylist(), strict=True))
    return counts, counts.total()


def _pseudo(facts: Facts) -> Markup:
    audits = [(r.number, r.audit) for r in facts.rounds if r.audit]
    if not audits:
        return page.absent("Not recorded: no round of this run has an audit.")
    number, audit = audits[-1]
    found = audit["confusion"]
    if found is None:
        return page.absent(
            "Not shown: the pool has no gold answers, or its answers come from no closed set of at most "
            f"{MOST_ANSWERS}."
        )
    return _matrix(
        f"All answered rows of round {number} with a gold answer", found["labels"], found["labels"], found["counts"]
    )


def _matrix(what: str, gold: Sequence[str], answers: Sequence[str], counts: Sequence[Sequence[int]]) -> Markup:
    rows: list[tuple[str, list[tuple[str, float]]]] = []
    for label, row in zip(gold, counts, strict=True):
        total = sum(row) or 1
        rows.append((label, [(f"{n:,}" if n else "·", math.sqrt(n / total)) for n in row]))
    caption = f"{what}: gold answers down, the model's across; the deeper a cell, the larger its share of the row"
    return charts.heat_map(caption, "gold", answers, rows)
