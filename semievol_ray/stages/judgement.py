"""A part of a round beside its decisions and gold answers, and the sums the audit makes of it.

Invariant: this runs in the worker that holds the part; only counts and float32 values of H leave it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from semievol_ray import schema
from semievol_ray.core import audit
from semievol_ray.core.audit import Floats
from semievol_ray.core.deciding import Coded
from semievol_ray.core.selection import Decision
from semievol_ray.runs import Step
from semievol_ray.stages.agreeing import Equal, equality
from semievol_ray.stages.columns import coded, floats, known
from semievol_ray.tasks import Task

Gold = tuple[Step, pa.Schema]
"""A step of gold answers, and its schema."""

APART = {"right": 1, "wrong": 0, "unknown": -1}
"""The three kinds of rows whose H is kept apart; -1: no gold answer or no label is known."""


@dataclass(frozen=True)
class Judgements:
    """The justified rows of a part beside their decisions and gold answers, column by column; `right` as in APART.

    `equal` compares the answers that occur in it. `answers`: a column for each collaborator.
    """

    equal: Equal
    answers: list[Coded]
    labels: Coded
    golds: Coded
    decisions: Coded
    right: NDArray[np.int8]
    confidences: Floats
    known: NDArray[np.bool_]


def audit_part(
    item: dict[str, Any], justified: Step, selection: Step, gold: Gold | None, task: Task, embedder_path: str | None
) -> dict[str, Any]:
    """In a Ray Data task: the sums of one part; H as float32 bytes, the counts as JSON."""
    rows = _judgements(item["part"], justified, selection, gold, task, embedder_path)
    decided = _decided(rows)
    accepted_R = _has(rows.decisions, Decision.ACCEPTED.value)
    counts = {
        "num_rows": len(rows.right),
        "decided": decided,
        "accepted_bins": audit.bin_counts(rows.confidences[accepted_R & rows.known]).tolist(),
        "agreement": audit.agreement(rows.answers, rows.equal).tolist(),
        "answers": [_answered(answers, rows.golds, rows.equal) for answers in rows.answers],
        **(_by_label(rows, accepted_R) if task.is_closed else {}),
    }
    of = {name: rows.confidences[rows.known & (rows.right == right)].tobytes() for name, right in APART.items()}
    return {**of, "counts": json.dumps(counts)}


def _judgements(
    part: str, justified: Step, selection: Step, gold: Gold | None, task: Task, embedder_path: str | None
) -> Judgements:
    columns = ["id", "answers", "label", "confidence"]
    table = justified.read_part(part, schema.JUSTIFIED, columns)
    ids, labels = table.column("id"), coded(table.column("label"))
    decisions = coded(_of(ids, selection.read_part(part, schema.SELECTION, ["id", "decision"]), "decision"))
    none = Coded(np.full(len(ids), -1, dtype=np.int64), ())
    golds = coded(_of(ids, gold[0].read_part(part, gold[1], ["id", "answer"]), "answer")) if gold else none
    answers = _collaborators(table.column("answers"))
    given = (text for column in (labels, golds, *answers) for text in column.values)
    equal = equality(task, embedder_path, given)
    right_R = audit.equal_pairs(labels, golds, equal)
    confidence = table.column("confidence")
    return Judgements(equal, answers, labels, golds, decisions, right_R, floats(confidence), known(confidence))


def _of(ids: pa.ChunkedArray, table: pa.Table, column: str) -> pa.ChunkedArray:
    """A column of another table by id; null for ids that it does not have."""
    if ids.equals(table.column("id")):
        return table.column(column)
    return table.column(column).take(pc.index_in(ids, value_set=table.column("id").combine_chunks()))


def _collaborators(column: pa.ChunkedArray) -> list[Coded]:
    """The answers of each collaborator; a list that is too short has none of the later ones."""
    lists = column.combine_chunks()
    lengths_R = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    every = coded(pa.chunked_array([lists.flatten()]))
    rows = np.repeat(np.arange(len(lists)), lengths_R)
    places = np.arange(len(rows)) - np.repeat(np.cumsum(lengths_R) - lengths_R, lengths_R)
    codes_RC = np.full((len(lists), int(lengths_R.max(initial=0))), -1, dtype=np.int64)
    codes_RC[rows, places] = every.codes
    return [Coded(codes_R, every.values) for codes_R in codes_RC.T]


def _decided(rows: Judgements) -> dict[str, tuple[int, int, int]]:
    """decision -> its rows, those that could be judged, and those that are right."""
    found = {}
    for decision in rows.decisions.values:
        right_R = rows.right[_has(rows.decisions, decision)]
        found[decision] = (len(right_R), int((right_R >= 0).sum()), int((right_R == 1).sum()))
    return found


def _answered(answers: Coded, golds: Coded, equal: Equal) -> dict[str, int]:
    """Of one collaborator's readable answers to rows with a gold answer, how many are right."""
    right_R = audit.equal_pairs(answers, golds, equal)
    return {"judged": int((right_R >= 0).sum()), "right": int((right_R == 1).sum())}


def _by_label(rows: Judgements, accepted_R: NDArray[np.bool_]) -> dict[str, dict[str, int]]:
    """How often each label was answered, accepted and gold, and each pair of gold answer and label, as JSON."""
    everywhere_R = np.ones(len(accepted_R), dtype=bool)
    num = len(rows.labels.values)
    pairs_R = rows.golds.codes * num + rows.labels.codes
    found, counts = np.unique(pairs_R[rows.right >= 0], return_counts=True)
    texts = [(rows.golds.values[pair // num], rows.labels.values[pair % num]) for pair in found.tolist()]
    return {
        "answered": _counted(rows.labels, everywhere_R),
        "accepted": _counted(rows.labels, accepted_R),
        "gold": _counted(rows.golds, everywhere_R),
        "confusion": {json.dumps(pair): n for pair, n in zip(texts, counts.tolist(), strict=True)},
    }


def _counted(column: Coded, which_R: NDArray[np.bool_]) -> dict[str, int]:
    """How many of some rows have each text."""
    codes = column.codes[which_R & (column.codes >= 0)]
    return {text: n for text, n in zip(column.values, _tally(codes, column.values), strict=True) if n}


def _tally(codes: NDArray[np.int64], values: Sequence[str]) -> list[int]:
    counts: list[int] = np.bincount(codes, minlength=len(values)).tolist()
    return counts[: len(values)]


def _has(column: Coded, text: str) -> NDArray[np.bool_]:
    """Where a column has this text."""
    code = list(column.values).index(text) if text in column.values else -2
    return np.asarray(column.codes == code)
