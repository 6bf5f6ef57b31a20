"""Exact nearest neighbours by inner product: what an approximate index is measured against.

Invariant: the result depends on the vectors alone, not on how the work is cut; equal scores go to the lower index.
Axes: Q queries, N pool vectors, D dimensions, k neighbours.
"""

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1024


def top_k(
    queries_QD: NDArray[np.float32], pool_ND: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(scores_Qk, indices_Qk), best first; cosines when both sides are unit vectors. k is cut to N.

    Products are summed in float64 and rounded once, so that equal vectors score equally. ValueError: shapes, k < 1,
    a value that is not finite.
    """
    if queries_QD.ndim != 2 or pool_ND.ndim != 2 or queries_QD.shape[1] != pool_ND.shape[1]:
        raise ValueError(f"queries {queries_QD.shape} and pool {pool_ND.shape} must be (Q, D) and (N, D)")
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if not (np.isfinite(queries_QD).all() and np.isfinite(pool_ND).all()):
        raise ValueError("an embedding is not finite")
    width = min(k, len(pool_ND))
    scores_Qk = np.empty((len(queries_QD), width), dtype=np.float32)
    indices_Qk = np.empty((len(queries_QD), width), dtype=np.int64)
    pool_DN = pool_ND.astype(np.float64).T
    for at in range(0, len(queries_QD), _BLOCK):
        block_BN = (queries_QD[at : at + _BLOCK].astype(np.float64) @ pool_DN).astype(np.float32)
        best_Bk = np.argsort(-block_BN, axis=1, kind="stable")[:, :width]
        indices_Qk[at : at + _BLOCK] = best_Bk
        scores_Qk[at : at + _BLOCK] = np.take_along_axis(block_BN, best_Bk, axis=1)
    return scores_Qk, indices_Qk
