"""The verdict on a pool's rows: which stay, each for how many, decided by one task that holds only their ids.

Invariant: the first of equal rows stays, unless a higher split has it; a sample is drawn among those that stay.
"""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from semievol_ray import schema
from semievol_ray.core.firsts import copies_of, drawn, id_words
from semievol_ray.runs import Step

_COLUMNS = ["id", "mapped", "replaced", "example"]


@dataclass(frozen=True)
class Verdict:
    """Counts of a pool: rows read, repeats among them, different rows that a higher split has, and rows that stay.

    num_kept: the rows that stay, chunk by chunk. `mapped` and `replaced` count rows that were not read literally.
    """

    read: int
    duplicates: int
    in_higher_split: int
    mapped: int
    replaced: int
    example: str
    num_kept: tuple[int, ...]


def decide(
    item: dict[str, Any], read: Step, kept: Step, taken: Collection[str], sample: int | None, seed: int
) -> dict[str, Any]:
    """Commit POOL_KEPT, a part for each chunk, in about 75 bytes a row; returns the verdict as JSON text.

    taken: the ids of higher splits.
    """
    lengths = read.lengths()
    higher = id_words(b"".join(bytes.fromhex(row_id) for row_id in sorted(set(taken))))
    ids_N4 = np.empty((len(higher) + sum(lengths), higher.shape[1]), dtype=np.uint64)
    ids_N4[: len(higher)] = higher
    mapped, replaced, example = _read_ids(read, lengths, ids_N4[len(higher) :])
    copies_N = copies_of(ids_N4)
    in_higher = int((copies_N[: len(higher)] > 1).sum())
    copies_N = copies_N[len(higher) :]
    num_distinct = int(np.count_nonzero(copies_N)) + in_higher
    if sample is not None:
        copies_N = drawn(copies_N, ids_N4[len(higher) :], sample, seed)
    num_kept = _commit(kept, lengths, copies_N)
    counts = (len(copies_N), len(copies_N) - num_distinct, in_higher, mapped, replaced, example)
    return {"part": item["part"], "verdict": json.dumps(asdict(Verdict(*counts, num_kept)))}


def _read_ids(read: Step, lengths: list[int], ids_N4: NDArray[np.uint64]) -> tuple[int, int, str]:
    """Fill in the ids of all chunks; how many rows are mapped and replaced, and the first example."""
    mapped, replaced, example, begin = 0, 0, "", 0
    for read_ahead, num in zip(read.read_parts(schema.POOL_READ, _COLUMNS), lengths, strict=True):
        table = read_ahead.combine_chunks()
        if num:
            ids = table.column("id").chunk(0)
            ids_N4[begin : begin + num] = id_words(ids.buffers()[1])[ids.offset : ids.offset + num]
            mapped += table.column("mapped").to_numpy().sum()
            replaced += table.column("replaced").to_numpy().sum()
            example = example or next(iter(table.column("example").drop_null().to_pylist()), "")
        begin += num
    return int(mapped), int(replaced), example


def _commit(kept: Step, lengths: list[int], copies_N: NDArray[np.int32]) -> tuple[int, ...]:
    begin, num_kept = 0, []
    for chunk, num in zip(kept.parts, lengths, strict=True):
        copies = copies_N[begin : begin + num]
        positions = np.flatnonzero(copies)
        table = pa.table([positions.astype(np.int32), copies[positions]], schema=schema.POOL_KEPT)
        kept.commit_part(chunk, table)
        num_kept.append(len(positions))
        begin += num
    return tuple(num_kept)
