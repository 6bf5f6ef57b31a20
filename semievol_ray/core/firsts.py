"""Which rows of many are the first with their id, how often each id occurs, and a draw among those.

Invariant: the answer is that of a dict over the ids in order, in about 70 bytes a row at most: 32 for the id, the rest
for one stable sort of 64-bit prefixes, each compared in full with its neighbour.

Legend: N all rows, those of higher splits (unique, in front) among them.
"""

import numpy as np
from numpy.typing import NDArray

from semievol_ray.core.identity import sample_key

ID_BYTES = 32
_AT_ONCE = 1 << 20


def id_words(ids: bytes | memoryview) -> NDArray[np.uint64]:
    """Ids of ID_BYTES each, one behind the other, as (N, 4) words; equal ids are equal rows, and no more is meant."""
    return np.frombuffer(ids, dtype=np.uint64).reshape(-1, ID_BYTES // 8)


def copies_of(ids_N4: NDArray[np.uint64]) -> NDArray[np.int32]:
    """At the first row of each id the number of rows that have it, 0 at every other row (N,)."""
    num_rows = len(ids_N4)
    order_N = np.argsort(ids_N4[:, 0], kind="stable")
    new_N, is_sorted = _borders(ids_N4, order_N)
    if not is_sorted:  # two ids share their first 64 bits: 3 in a million at ten million rows
        order_N = np.lexsort(ids_N4.T[::-1])
        new_N, _ = _borders(ids_N4, order_N)
    starts = np.flatnonzero(new_N)
    copies_N = np.zeros(num_rows, dtype=np.int32)
    copies_N[order_N[starts]] = np.diff(starts, append=num_rows)
    return copies_N


def drawn(copies_N: NDArray[np.int32], ids_N4: NDArray[np.uint64], num: int, seed: int) -> NDArray[np.int32]:
    """The copies with 0 at all rows but `num` of those that stay: the ones with the smallest `sample_key`."""
    staying = np.flatnonzero(copies_N)
    keys = np.fromiter((sample_key(seed, ids_N4[row].tobytes().hex()) for row in staying), np.float64, len(staying))
    chosen = staying[np.argsort(keys, kind="stable")[:num]]
    left_N = np.zeros_like(copies_N)
    left_N[chosen] = copies_N[chosen]
    return left_N


def _borders(ids_N4: NDArray[np.uint64], order_N: NDArray[np.int64]) -> tuple[NDArray[np.bool_], bool]:
    """Where in the order another id begins (N,), and whether no two ids with one prefix lie mixed."""
    new_N = np.ones(len(order_N), dtype=bool)
    is_sorted = True
    for start in range(1, len(order_N), _AT_ONCE):
        stop = min(start + _AT_ONCE, len(order_N))
        before, here = ids_N4[order_N[start - 1 : stop - 1]], ids_N4[order_N[start:stop]]
        new_N[start:stop] = differ = (before != here).any(axis=1)
        is_sorted = is_sorted and not (differ & (before[:, 0] == here[:, 0])).any()
    return new_N, is_sorted
