"""Sentence embeddings: any sentence-transformers model, or the hash embedder of the scripted engine.

Invariant: vectors are float32 of length 1, so that an inner product is a cosine.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from semievol_ray.engines.base import Embedder
from semievol_ray.engines.scripted import HashEmbedder
from semievol_ray.engines.weights import local_weights
from semievol_ray.errors import MissingExtraError

HASH = "hash"


class SentenceEmbedder:
    """A sentence-transformers model on the best device there is."""

    def __init__(self, path: str, batch_size: int = 64) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise MissingExtraError("embeddings need sentence-transformers: pip install 'semievol-ray[cpu]'") from error
        self._model = SentenceTransformer(local_weights(path), local_files_only=True, trust_remote_code=False)
        self._batch_size = batch_size

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = self._model.encode(
            list(texts), batch_size=self._batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(vectors, dtype=np.float32)


def open_embedder(path: str) -> Embedder:
    """The embedder of a model folder or address, or the scripted one for the name `hash`."""
    return HashEmbedder() if path == HASH else SentenceEmbedder(path)
