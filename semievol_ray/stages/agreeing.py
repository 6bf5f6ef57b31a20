"""Agreeing: when two answers are the same, by a task's own rule or by the embeddings of their texts.

Invariant: votes, predictions, pseudo-labels and gold answers of a task are all compared in this one way.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache

from semievol_ray.engines.base import Embedder
from semievol_ray.engines.embed import open_embedder
from semievol_ray.tasks import Task

Equal = Callable[[str, str], bool]


def equality(task: Task, embedder_path: str | None, given: Iterable[str | None]) -> Equal:
    """How the canonical answers `given` are compared; `embedder_path` is set where they agree by their embeddings."""
    if embedder_path is None:
        return task.equal
    texts = task.texts(given)
    vectors = _embedder(embedder_path).embed(texts) if texts else ()
    return task.equal_by(dict(zip(texts, vectors, strict=True)))


@lru_cache(maxsize=1)
def _embedder(path: str) -> Embedder:
    return open_embedder(path)
