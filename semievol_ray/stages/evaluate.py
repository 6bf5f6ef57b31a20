"""Evaluate: what predictions and pseudo-labels are worth, where gold answers exist.

Invariant: this and `explain` are the only readers of the gold table, and nothing here feeds a prompt or a fine-tuning.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from semievol_ray import schema
from semievol_ray.core.metrics import bootstrap_interval, class_table, decision_table
from semievol_ray.runs import Step
from semievol_ray.tasks import Task


def accuracy_metrics(predictions: Step, task: Task) -> dict[str, Any]:
    """Accuracy with its 95% bootstrap interval, unreadable share and per-class table of a PREDICTIONS step."""
    rows = [row for part in predictions.parts for row in predictions.read_part(part, schema.PREDICTIONS).to_pylist()]
    correct = np.array([row["correct"] for row in rows], dtype=bool)
    low, high = bootstrap_interval(correct)
    classes = class_table([row["gold"] for row in rows], [row["answer"] for row in rows]) if task.is_closed else []
    return {
        "accuracy": float(correct.mean()),
        "accuracy_low": low,
        "accuracy_high": high,
        "num_rows": len(rows),
        "num_unreadable": sum(row["answer"] is None for row in rows),
        "classes": [asdict(row) for row in classes],
    }


def pseudo_label_metrics(selection: Step, gold: Step, task: Task) -> dict[str, Any]:
    """Precision and coverage of a SELECTION step by decision; precision is None where no gold answer exists.

    `gold` may hold more rows than the round answered.
    """
    decided, right = [], []
    for part in selection.parts:
        rows = selection.read_part(part, schema.SELECTION).to_pylist()
        answers = {row["id"]: row["answer"] for row in gold.read_part(part, schema.GOLD).to_pylist()}
        decided += [row["decision"] for row in rows]
        right += [is_right(row["label"], answers[row["id"]], task) for row in rows]
    table = decision_table(decided, right)
    accepted = next(row for row in table if row.decision == "accepted")
    return {
        "precision_all": _share(right),
        "precision_accepted": accepted.precision,
        "coverage": accepted.share,
        "decisions": [asdict(row) for row in table],
    }


def correctness(predictions: Step) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether each test row was answered right, in the order of the split."""
    columns = [predictions.read_part(p, schema.PREDICTIONS).column("correct").to_pylist() for p in predictions.parts]
    return np.array([c for column in columns for c in column], dtype=bool)


def is_right(label: str | None, answer: str | None, task: Task) -> bool | None:
    """Whether a label equals the gold answer; None where either is unknown."""
    return None if label is None or answer is None else task.equal(label, answer)


def _share(right: Sequence[bool | None]) -> float | None:
    judged = [r for r in right if r is not None]
    return sum(judged) / len(judged) if judged else None
