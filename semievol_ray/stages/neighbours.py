"""The nearest rows that may be shown, for a part of the pool at a time, as arrays from the index to the table.

Invariant: no row is shown a row with its own id or its normalised question.
Axes: Q rows of the part, N rows that may be shown, K neighbours looked at, of which k are kept.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from semievol_ray import schema
from semievol_ray.core.identity import normalise
from semievol_ray.engines.base import Index
from semievol_ray.runs import Step


@dataclass(frozen=True)
class Shown:
    """The N rows that may be shown: ids, questions, and sources (gold, pseudo)."""

    ids: pa.Array
    questions: Sequence[str]
    sources: pa.Array


@dataclass(frozen=True)
class RetrievalPool:
    """The rows that may be shown beside the index of their vectors, and what finds a row's own among them."""

    shown: Shown
    index: Index
    number_of: Mapping[str, int] = field(init=False)
    numbers: NDArray[np.int64] = field(init=False)
    position_of: Mapping[str, int] = field(init=False)
    counts: Mapping[int, int] = field(init=False)

    def __post_init__(self) -> None:
        number_of: dict[str, int] = {}
        numbers = [number_of.setdefault(normalise(q), len(number_of)) for q in self.shown.questions]
        object.__setattr__(self, "number_of", number_of)
        object.__setattr__(self, "numbers", np.asarray(numbers, dtype=np.int64))
        object.__setattr__(self, "position_of", {row: i for i, row in enumerate(self.shown.ids.to_pylist())})
        object.__setattr__(self, "counts", Counter(numbers))


def shown_rows(shown: Step) -> Shown:
    """Every row of the EXAMPLES that may be shown, in order."""
    tables = [shown.read_part(part, schema.EXAMPLES, ["id", "question", "source"]) for part in shown.parts]
    whole = pa.concat_tables(tables).combine_chunks()
    ids, questions, sources = (whole.column(name) for name in ("id", "question", "source"))
    return Shown(_one(ids), questions.to_pylist(), _one(sources))


def nearest(rows: pa.Table, queries_QD: NDArray[np.float32], pool: RetrievalPool, k: int) -> pa.Table:
    """DEMONSTRATIONS of a part: up to k ids and cosines a row, nearest first, a row's own question left out."""
    if rows.num_rows == 0:
        return schema.DEMONSTRATIONS.empty_table()
    ids = rows.column("id").to_pylist()
    own_Q = [pool.number_of.get(normalise(q), -1) for q in rows.column("question").to_pylist()]
    same_Q = [pool.position_of.get(row, -1) for row in ids]
    num_own = max((pool.counts.get(number, 0) for number in {*own_Q}), default=0)
    num_own = max(num_own, int(max(same_Q) >= 0))
    scores_QK, positions_QK = pool.index.search(queries_QD, k + num_own)
    others_QK = positions_QK >= 0
    if num_own:
        others_QK &= pool.numbers[positions_QK] != np.asarray(own_Q)[:, None]
        others_QK &= positions_QK != np.asarray(same_Q)[:, None]
    kept_QK = others_QK & (np.cumsum(others_QK, axis=1) <= k)
    return _table(ids, scores_QK, positions_QK, kept_QK, pool.shown)


def _table(
    ids: Sequence[str],
    scores_QK: NDArray[np.float32],
    positions_QK: NDArray[np.int64],
    kept_QK: NDArray[np.bool_],
    shown: Shown,
) -> pa.Table:
    offsets = pa.array(np.concatenate([[0], np.cumsum(kept_QK.sum(axis=1))]), pa.int32())
    positions = pa.array(positions_QK[kept_QK])

    def lists(values: pa.Array) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, values)

    columns = {
        "id": pa.array(ids, pa.string()),
        "demonstration_ids": lists(shown.ids.take(positions)),
        "scores": lists(pa.array(scores_QK[kept_QK], pa.float32())),
        "sources": lists(shown.sources.take(positions)),
    }
    return pa.table(columns, schema=schema.DEMONSTRATIONS)


def _one(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
