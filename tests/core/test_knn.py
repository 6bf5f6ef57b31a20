"""Exact neighbours against a loop, and the order of ties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol_ray.core.knn import top_k


@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 12), st.integers(1, 14))
def test_top_k_matches_a_sorted_loop(seed: int, num_queries: int, num_pool: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    queries_QD = rng.integers(-3, 4, (num_queries, 4)).astype(np.float32)  # small integers: exact, and full of ties
    pool_ND = rng.integers(-3, 4, (num_pool, 4)).astype(np.float32)
    scores_Qk, indices_Qk = top_k(queries_QD, pool_ND, k)
    for query, scores, indices in zip(queries_QD.tolist(), scores_Qk, indices_Qk, strict=True):
        products = [sum(a * b for a, b in zip(query, row, strict=True)) for row in pool_ND.tolist()]
        best = sorted(range(num_pool), key=lambda i: (-products[i], i))[:k]
        assert indices.tolist() == best
        assert scores.tolist() == [products[i] for i in best]


def test_top_k_equal_vectors_come_in_pool_order() -> None:
    rng = np.random.default_rng(0)
    vector_D = rng.normal(size=37).astype(np.float32)
    pool_ND = np.tile(vector_D, (301, 1))
    _, indices_Qk = top_k(rng.normal(size=(3, 37)).astype(np.float32), pool_ND, 301)
    assert (indices_Qk == np.arange(301)).all()


def test_top_k_result_does_not_depend_on_the_number_of_queries() -> None:
    rng = np.random.default_rng(1)
    queries_QD, pool_ND = rng.normal(size=(1500, 16)).astype(np.float32), rng.normal(size=(50, 16)).astype(np.float32)
    scores_Qk, indices_Qk = top_k(queries_QD, pool_ND, 3)
    last_scores, last_indices = top_k(queries_QD[1400:], pool_ND, 3)
    assert (last_indices == indices_Qk[1400:]).all()
    assert (last_scores == scores_Qk[1400:]).all()
    assert (str(scores_Qk.dtype), str(indices_Qk.dtype)) == ("float32", "int64")


@pytest.mark.parametrize(
    ("queries", "pool", "k", "reason"),
    [
        (np.zeros((2, 3)), np.zeros((2, 4)), 1, "must be"),
        (np.zeros(3), np.zeros((2, 3)), 1, "must be"),
        (np.zeros((2, 3)), np.zeros((2, 3)), 0, "at least 1"),
        (np.full((2, 3), np.nan), np.zeros((2, 3)), 1, "not finite"),
    ],
)
def test_top_k_of_impossible_input_raises(queries: np.ndarray, pool: np.ndarray, k: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        top_k(queries.astype(np.float32), pool.astype(np.float32), k)
