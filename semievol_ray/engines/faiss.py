"""FAISS as an `Index`: exact, HNSW or IVF by the number of vectors, built once and mapped into memory from its file.

Invariant: the kind depends on the number of vectors and the configuration alone, never on the device; an exact index
finds what `core.knn.top_k` finds, up to the order of equal scores.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from semievol_ray.errors import MissingExtraError, StorageError

Kind = Literal["flat", "hnsw", "ivf"]

EXACT_BELOW = 100_000
"""Vectors below which search is exact. Chosen, not measured yet: exactness is worth more than the milliseconds that a
question costs there; `python -m benchmarks.retrieve --only i` measures both."""
HNSW_BELOW = 1_000_000
"""Vectors up to which an approximate index is a graph, whose links and building cost more than cells do."""
NUM_LINKS, EF_CONSTRUCTION, EF_SEARCH = 32, 128, 128
PROBED_SHARE, TRAINED_A_CELL = 1 / 16, 64
SEED = 1234
LEAST_SLICE = 64
"""Questions from which on a thread of its own pays. Slices of one thread each wait for nobody; FAISS's own threads
meet after every block of keys, which costs a third of the processor time (benchmarks/README.md)."""
LEAST_FOR_BLAS = 4000
"""Questions x dimensions from which on FAISS multiplies matrices: its own 128,000 makes parts of 300 rows five times as
slow as they need be."""


class FaissIndex:
    """One FAISS index, searched on the GPU where there is one, this FAISS knows it, and the kind exists there."""

    def __init__(self, index: Any) -> None:
        faiss = _faiss()
        self._exact = index
        self._index = _on_gpu(faiss, index)
        self._num_threads = int(faiss.omp_get_max_threads()) if self._index is index else 1
        self._threads = ThreadPoolExecutor(self._num_threads, "faiss", lambda: faiss.omp_set_num_threads(1))
        faiss.cvar.distance_compute_blas_threshold = LEAST_FOR_BLAS

    def __len__(self) -> int:
        return int(self._exact.ntotal)

    def search(self, queries_QD: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and positions of shape (Q, min(k, N)), best first; -1 stands where an IVF index found no more."""
        width, queries_QD = min(k, len(self)), np.ascontiguousarray(queries_QD)
        num = min(self._num_threads, len(queries_QD) // LEAST_SLICE)
        if num < 2:
            scores, positions = self._index.search(queries_QD, width)
            return scores, positions
        found = list(self._threads.map(lambda s: self._index.search(s, width), np.array_split(queries_QD, num)))
        scores, positions = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        return scores, positions

    def search_exactly(self, queries_QD: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """What an exact search of the same vectors finds: what recall is measured against."""
        faiss, queries, width = _faiss(), np.ascontiguousarray(queries_QD), min(k, len(self))
        if isinstance(self._exact, faiss.IndexIVF):
            every_cell = faiss.SearchParametersIVF(nprobe=self._exact.nlist)
            scores, positions = self._exact.search(queries, width, params=every_cell)
            return scores, positions
        stored = faiss.downcast_index(getattr(self._exact, "storage", self._exact))
        scores, positions = stored.search(queries, width)
        return scores, positions


def kind_of(num_vectors: int, asked: Kind | Literal["auto"] = "auto") -> Kind:
    """The kind of index for so many vectors; the one that is asked for, where one is."""
    if asked != "auto":
        return asked
    return "flat" if num_vectors < EXACT_BELOW else "hnsw" if num_vectors < HNSW_BELOW else "ivf"


def build(embeddings_ND: NDArray[np.float32], kind: Kind) -> FaissIndex:
    """An index over `embeddings_ND`, shape (N, D), float32, unit rows; the products of its vectors are cosines."""
    return FaissIndex(_built(np.ascontiguousarray(embeddings_ND, dtype=np.float32), kind))


def write_index(embeddings_ND: NDArray[np.float32], kind: Kind, path: str) -> None:
    """Build an index and write it to a local file, for `open_index`."""
    _faiss().write_index(_built(np.ascontiguousarray(embeddings_ND, dtype=np.float32), kind), path)


def open_index(path: str) -> FaissIndex:
    """The index in a local file, mapped: processes of a machine share one copy of it in memory."""
    faiss = _faiss()
    try:
        return FaissIndex(faiss.read_index(path, faiss.IO_FLAG_MMAP_IFC))
    except RuntimeError as error:
        found = f"{Path(path).stat().st_size:,} bytes" if Path(path).exists() else "nothing"
        raise StorageError(
            f"{path} is no index that this FAISS can read ({found} there). Delete it and run the same command again."
        ) from error


def _built(embeddings_ND: NDArray[np.float32], kind: Kind) -> Any:
    faiss, (num, dimensions) = _faiss(), embeddings_ND.shape
    match kind:
        case "flat":
            index = faiss.IndexFlatIP(dimensions)
        case "hnsw":
            index = faiss.IndexHNSWFlat(dimensions, NUM_LINKS, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction, index.hnsw.efSearch = EF_CONSTRUCTION, EF_SEARCH
        case "ivf":
            index = _cells(faiss, embeddings_ND, max(1, min(int(4 * math.sqrt(num)), num // 39)))
    index.add(embeddings_ND)
    return index


def _cells(faiss: Any, embeddings_ND: NDArray[np.float32], num_cells: int) -> Any:
    """An IVF index with its cells trained on a sample; k-means wants 39 vectors a cell."""
    num, dimensions = embeddings_ND.shape
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dimensions), dimensions, num_cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.min_points_per_centroid = SEED, 1
    index.nprobe = max(1, math.ceil(num_cells * PROBED_SHARE))
    sample = np.random.default_rng(SEED).permutation(num)[: num_cells * TRAINED_A_CELL]
    index.train(embeddings_ND[np.sort(sample)])
    return index


def _on_gpu(faiss: Any, index: Any) -> Any:
    """The index in the first GPU's memory; itself without a GPU, with FAISS for CPUs, and for a graph."""
    if not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus() or isinstance(index, faiss.IndexHNSW):
        return index
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError("retrieval needs FAISS: pip install 'semievol-ray[cpu]'") from error
    return faiss
