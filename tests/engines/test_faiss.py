"""FAISS against the exact search of core.knn."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from semievol_ray.core.knn import top_k
from semievol_ray.engines import faiss as index
from semievol_ray.engines.faiss import Kind, build, kind_of, open_index, write_index
from semievol_ray.errors import StorageError


def _unit(num: int, seed: int, dimensions: int = 16) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(num, dimensions)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


@pytest.mark.parametrize(
    ("num_queries", "num_pool", "k"), [(7, 200, 3), (333, 500, 3), (1, 5, 5), (4, 3, 8), (2, 1, 1)]
)
def test_flat_index_finds_what_exact_search_finds(num_queries: int, num_pool: int, k: int) -> None:
    queries, pool = _unit(num_queries, num_pool), _unit(num_pool, 1)
    scores, positions = build(pool, "flat").search(queries, k)
    exact_scores, exact_positions = top_k(queries, pool, k)
    assert positions.shape == (num_queries, min(k, num_pool))
    np.testing.assert_array_equal(positions, exact_positions)
    np.testing.assert_allclose(scores, exact_scores, atol=1e-6)


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_index_from_its_file_is_mapped_and_finds_what_it_found(kind: Kind, tmp_path: Path) -> None:
    queries, pool, path = _unit(50, 3), _unit(3000, 4), str(tmp_path / "index.faiss")
    write_index(pool, kind, path)
    opened, built = open_index(path), build(pool, kind)
    assert len(opened) == 3000
    assert path in Path("/proc/self/maps").read_text()
    np.testing.assert_array_equal(opened.search(queries, 3)[1], built.search(queries, 3)[1])


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_exact_search_of_any_index_is_that_of_all_vectors(kind: Kind) -> None:
    queries, pool = _unit(40, 5), _unit(2000, 6)
    np.testing.assert_array_equal(build(pool, kind).search_exactly(queries, 3)[1], top_k(queries, pool, 3)[1])


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_approximate_index_finds_most_of_what_exact_search_finds(kind: Kind) -> None:
    pool = _unit(4000, 7)
    queries = pool[:200] + 0.1 * _unit(200, 8)
    found = build(pool, kind).search(queries, 3)[1]
    exact = top_k(queries, pool, 3)[1]
    assert np.mean([len(set(a) & set(b)) for a, b in zip(found.tolist(), exact.tolist(), strict=True)]) > 1.5
    assert (found[:, 0] == np.arange(200)).mean() > 0.95


@pytest.mark.parametrize(("num_pool", "kind"), [(1, "ivf"), (50, "ivf"), (2, "hnsw")])
def test_approximate_index_of_a_few_vectors_still_answers(num_pool: int, kind: Kind) -> None:
    pool = _unit(num_pool, 9)
    assert build(pool, kind).search(pool, 1)[1][:, 0].tolist() == list(range(num_pool))


def test_kind_is_exact_for_few_vectors_and_as_asked_for_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "EXACT_BELOW", 10)
    monkeypatch.setattr(index, "HNSW_BELOW", 100)
    assert [kind_of(n) for n in (0, 9, 10, 99, 100)] == ["flat", "flat", "hnsw", "hnsw", "ivf"]
    assert kind_of(1000, "flat") == "flat"


def test_damaged_index_file_is_told_with_its_path_and_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "index.faiss"
    write_index(_unit(10, 10), "flat", str(path))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(StorageError, match=r"index\.faiss is no index .* Delete it"):
        open_index(str(path))


class _Graph:
    """Stands for faiss.IndexHNSW."""


@pytest.mark.parametrize(("num_gpus", "kind", "moved"), [(1, object, True), (0, object, False), (1, _Graph, False)])
def test_index_goes_to_the_gpu_where_there_is_one_and_the_kind_exists_there(
    num_gpus: int, kind: Any, moved: bool
) -> None:
    gpu_faiss = SimpleNamespace(
        StandardGpuResources=lambda: "resources",
        get_num_gpus=lambda: num_gpus,
        IndexHNSW=_Graph,
        index_cpu_to_gpu=lambda resources, device, held: (resources, device, held),
    )
    held = kind()
    assert index._on_gpu(gpu_faiss, held) == (("resources", 0, held) if moved else held)
