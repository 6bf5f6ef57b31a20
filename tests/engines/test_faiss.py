"""FAISS against the exact search of core.knn."""

import numpy as np
import pytest

from semievol_ray.core.knn import top_k
from semievol_ray.engines.faiss import FlatIndex


@pytest.mark.parametrize(("num_queries", "num_pool", "k"), [(7, 200, 3), (1, 5, 5), (4, 3, 8), (2, 1, 1)])
def test_flat_index_finds_what_exact_search_finds(num_queries: int, num_pool: int, k: int) -> None:
    numbers = np.random.default_rng(num_pool)
    queries, pool = (numbers.normal(size=(n, 16)).astype(np.float32) for n in (num_queries, num_pool))
    queries, pool = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (queries, pool))
    scores, positions = FlatIndex(pool).search(queries, k)
    exact_scores, exact_positions = top_k(queries, pool, k)
    assert positions.shape == (num_queries, min(k, num_pool))
    np.testing.assert_array_equal(positions, exact_positions)
    np.testing.assert_allclose(scores, exact_scores, atol=1e-6)
