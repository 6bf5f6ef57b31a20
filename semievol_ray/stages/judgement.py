"""A part of a round beside its decisions and gold answers, and the sums the audit makes of it.

Invariant: this runs in the worker that holds the part; only counts and float32 values of H leave it.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from semievol_ray import schema
from semievol_ray.core import audit
from semievol_ray.core.audit import Floats
from semievol_ray.core.selection import Decision
from semievol_ray.runs import Step
from semievol_ray.tasks import Task

Gold = tuple[Step, pa.Schema]
"""A step of gold answers, and its schema."""

APART = {"right": True, "wrong": False, "unknown": None}
"""The three kinds of rows whose H is kept apart."""


@dataclass(frozen=True)
class Judgement:
    """A justified row beside its decision and gold answer; `right` is None where no gold or no label is known."""

    answers: Sequence[str | None]
    label: str | None
    confidence: float | None
    accepted: bool
    gold: str | None
    right: bool | None


def audit_part(item: dict[str, Any], justified: Step, selection: Step, gold: Gold | None, task: Task) -> dict[str, Any]:
    """In a Ray Data task: the sums of one part; H as float32 bytes, the counts as JSON."""
    rows = _judgements(item["part"], justified, selection, gold, task)
    kept = [row for row in rows if row.accepted]
    closed = rows if task.is_closed else []
    counts = {
        "num_rows": len(rows),
        "accepted_bins": audit.bin_counts(_floats(kept)).tolist(),
        "accepted_judged": sum(row.right is not None for row in kept),
        "accepted_right": sum(row.right is True for row in kept),
        "agreement": audit.agreement([row.answers for row in rows], task.equal, _num_collaborators(rows)).tolist(),
        "answers": [_answered(rows, i, task) for i in range(_num_collaborators(rows))],
        "answered": Counter(row.label for row in closed if row.label is not None),
        "accepted": Counter(row.label for row in closed if row.accepted),
        "gold": Counter(row.gold for row in closed if row.gold is not None),
        "confusion": Counter(json.dumps([row.gold, row.label]) for row in closed if row.right is not None),
    }
    of = {name: _floats([row for row in rows if row.right is right]).tobytes() for name, right in APART.items()}
    return {**of, "counts": json.dumps(counts)}


def _judgements(part: str, justified: Step, selection: Step, gold: Gold | None, task: Task) -> list[Judgement]:
    decisions = _by_id(selection.read_part(part, schema.SELECTION), "decision")
    golds = _by_id(gold[0].read_part(part, gold[1]), "answer") if gold else {}
    columns = ["id", "answers", "label", "confidence"]
    found = []
    for row in justified.read_part(part, schema.JUSTIFIED).select(columns).to_pylist():
        answer, label = golds.get(row["id"]), row["label"]
        right = None if answer is None or label is None else task.equal(label, answer)
        accepted = decisions.get(row["id"]) == Decision.ACCEPTED.value
        found.append(Judgement(row["answers"] or (), label, row["confidence"], accepted, answer, right))
    return found


def _answered(rows: Sequence[Judgement], index: int, task: Task) -> dict[str, int]:
    """Of one collaborator's readable answers to rows with a gold answer, how many are right."""
    pairs = [(row.answers[index], row.gold) for row in rows if index < len(row.answers)]
    judged = [(a, g) for a, g in pairs if a is not None and g is not None]
    return {"judged": len(judged), "right": sum(task.equal(a, g) for a, g in judged)}


def _num_collaborators(rows: Sequence[Judgement]) -> int:
    return max((len(row.answers) for row in rows), default=0)


def _by_id(table: pa.Table, column: str) -> dict[str, str | None]:
    return dict(zip(table.column("id").to_pylist(), table.column(column).to_pylist(), strict=True))


def _floats(rows: Sequence[Judgement]) -> Floats:
    return np.array([row.confidence for row in rows if row.confidence is not None], dtype=np.float32)
