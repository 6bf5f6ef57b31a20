"""Evaluate: what predictions and pseudo-labels are worth, where gold answers exist.

Invariant: this and `explain` are the only readers of the gold table, and nothing here feeds a prompt or a fine-tuning.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from semievol_ray import schema
from semievol_ray.core.metrics import bootstrap_interval, class_table, decision_table
from semievol_ray.runs import Step
from semievol_ray.stages.agreeing import equality
from semievol_ray.tasks import Task


def accuracy_metrics(predictions: Step, task: Task) -> dict[str, Any]:
    """Accuracy with its 95% bootstrap interval, unreadable share and per-class table of a PREDICTIONS step."""
    columns = ["answer", "gold", "correct"] if task.is_closed else ["answer", "correct"]
    table = pa.concat_tables(predictions.read_parts(schema.PREDICTIONS, columns))
    correct = np.asarray(table.column("correct").to_numpy(), dtype=bool)
    low, high = bootstrap_interval(correct)
    answers = table.column("answer")
    classes = class_table(table.column("gold").to_pylist(), answers.to_pylist()) if task.is_closed else []
    return {
        "accuracy": float(correct.mean()),
        "accuracy_low": low,
        "accuracy_high": high,
        "num_rows": table.num_rows,
        "num_unreadable": answers.null_count,
        "classes": [asdict(row) for row in classes],
    }


def pseudo_label_metrics(decided: Mapping[str, tuple[int, int, int]]) -> dict[str, Any]:
    """Precision and coverage of a selection by decision; precision is None where no gold answer exists.

    `decided`: decision -> its rows, those of them with gold and label, and those of these that are right.
    """
    table = decision_table(decided)
    accepted = next(row for row in table if row.decision == "accepted")
    judged, right = (sum(counts[i] for counts in decided.values()) for i in (1, 2))
    return {
        "precision_all": right / judged if judged else None,
        "precision_accepted": accepted.precision,
        "coverage": accepted.share,
        "decisions": [asdict(row) for row in table],
    }


def correctness(predictions: Step) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether each test row was answered right, in the order of the split."""
    columns = [predictions.read_part(p, schema.PREDICTIONS, ["correct"]).column("correct") for p in predictions.parts]
    return np.array([c for column in columns for c in column.to_pylist()], dtype=bool)


def asked(predictions: Step) -> tuple[str, ...]:
    """The id of each test row, in the order of the split; rows that ask the same question have the same."""
    columns = [predictions.read_part(p, schema.PREDICTIONS, ["id"]).column("id") for p in predictions.parts]
    return tuple(row_id for column in columns for row_id in column.to_pylist())


def known_right(
    labels: Sequence[str | None], golds: Sequence[str | None], task: Task, embedder_path: str | None
) -> list[bool]:
    """Whether each label equals its gold answer; False where either is unknown."""
    equal = equality(task, embedder_path, (*labels, *golds))
    pairs = zip(labels, golds, strict=True)
    return [label is not None and gold is not None and equal(label, gold) for label, gold in pairs]
