"""Sentence embeddings: any sentence-transformers model, or the hash embedder of the scripted engine.

Invariant: vectors are float32 of length 1, so that an inner product is a cosine.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from semievol_ray.engines.base import Embedder
from semievol_ray.engines.references import local_weights
from semievol_ray.engines.scripted import HashEmbedder
from semievol_ray.errors import MissingExtraError

HASH = "hash"
CHARACTERS_A_TOKEN = 4
BATCHES = {"cpu": (2048, 128), "gpu": (65_536, 1024)}
"""The most tokens, padding included, and the most texts of a batch: a GPU is idle in small ones, a cache too small."""


class SentenceEmbedder:
    """A sentence-transformers model on the best device there is."""

    def __init__(self, path: str) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise MissingExtraError("embeddings need sentence-transformers: pip install 'semievol-ray[cpu]'") from error
        self._model = SentenceTransformer(local_weights(path), local_files_only=True, trust_remote_code=False)
        self._most = BATCHES["cpu" if self._model.device.type == "cpu" else "gpu"]
        self._dimensions = int(self._model.get_embedding_dimension() or 0)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors_ND = np.empty((len(texts), self._dimensions), dtype=np.float32)
        for batch in length_sorted(texts, *self._most):
            vectors_ND[batch] = self._model.encode(
                [texts[i] for i in batch], batch_size=len(batch), normalize_embeddings=True, show_progress_bar=False
            )
        return vectors_ND


def length_sorted(texts: Sequence[str], most_tokens: int, most_texts: int) -> Iterator[list[int]]:
    """Positions of texts in batches of like lengths, the longest first: little is padded, and memory that suffices
    for the first batch suffices for all. A batch holds at most `most_tokens` with its padding, by a guess from the
    characters, and at least one text.
    """
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    start = 0
    while start < len(order):
        longest = len(texts[order[start]]) // CHARACTERS_A_TOKEN + 2
        end = start + max(1, min(most_texts, most_tokens // longest))
        yield order[start:end]
        start = end


def open_embedder(path: str) -> Embedder:
    """The embedder of a model that a reference names, or the scripted one for the name `hash`."""
    return HashEmbedder() if path == HASH else SentenceEmbedder(path)
