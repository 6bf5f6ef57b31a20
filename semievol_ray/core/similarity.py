"""Agreement of free texts by the cosine of their embeddings.

Invariant: texts that match after normalisation agree, whatever their vectors.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from semievol_ray.core.answers import Free, answers_equal
from semievol_ray.core.spans import accepted

if TYPE_CHECKING:  # a configuration is read without numpy
    import numpy as np
    from numpy.typing import NDArray


def texts_of(answers: Iterable[str | None]) -> list[str]:
    """The different texts in canonical answers, in order of first sight: what to embed; None is an unreadable one."""
    return list(dict.fromkeys(text for answer in answers if answer is not None for text in accepted(answer)))


def equal_by(fmt: Free, vectors: "Mapping[str, NDArray[np.float32]]") -> Callable[[str, str], bool]:
    """Equality of canonical answers: a normalised match, or a cosine of at least `fmt.similarity`; not transitive.

    `vectors` holds a vector of length 1 for every one of `texts_of` the answers; KeyError for a text without one.
    """

    def equal(a: str, b: str) -> bool:
        if answers_equal(fmt, a, b) or fmt.similarity is None:
            return answers_equal(fmt, a, b)
        cosines = (float(vectors[x] @ vectors[y]) for x in accepted(a) for y in accepted(b))
        return max(cosines) >= fmt.similarity

    return equal
