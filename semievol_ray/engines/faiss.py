"""FAISS as an `Index`: exact inner product over unit vectors.

Invariant: results equal `core.knn.top_k` up to the order of equal scores.
"""

import numpy as np
from numpy.typing import NDArray

from semievol_ray.errors import MissingExtraError


class FlatIndex:
    """Exact search over `embeddings_ND`, shape (N, D), float32, unit rows."""

    def __init__(self, embeddings_ND: NDArray[np.float32]) -> None:
        try:
            import faiss
        except ImportError as error:
            raise MissingExtraError("retrieval needs FAISS: pip install 'semievol-ray[cpu]'") from error
        self._index = faiss.IndexFlatIP(embeddings_ND.shape[1])
        self._index.add(np.ascontiguousarray(embeddings_ND, dtype=np.float32))

    def search(self, queries_QD: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and positions of shape (Q, min(k, N)), best first."""
        scores, positions = self._index.search(np.ascontiguousarray(queries_QD), min(k, self._index.ntotal))
        return scores, positions
