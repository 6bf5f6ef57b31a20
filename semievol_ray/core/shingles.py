"""Texts as sets of 3-word shingles, which pairs of texts to compare by the bands of their MinHashes, and Jaccard.

Invariant: a pair counts as near duplicates only by the exact Jaccard similarity of its shingle sets; bands merely
propose pairs. All rows are in order of priority, so that the later row of a pair is the one that would go.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semievol_ray.core.identity import normalise

WORDS = 3
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Candidates:
    """Pairs to compare, as positions (P,) with `earlier` < `later`; unique, in order of `earlier`.

    `num_capped` counts rows that share a band with more rows than they were paired with.
    """

    earlier: NDArray[np.int64]
    later: NDArray[np.int64]
    num_capped: int


def shingles(question: str, options: Sequence[str] | None) -> NDArray[np.uint64]:
    """64-bit hashes of the runs of three words in question and options, sorted and unique; never empty.

    Case and punctuation do not count. A text of fewer words is one shingle, so it equals nothing but itself.
    """
    text = normalise(" ".join([question, *(options or ())])).casefold()
    words = _WORD.findall(text) or [text]
    runs = {" ".join(words[i : i + WORDS]) for i in range(max(1, len(words) - WORDS + 1))}
    digests = b"".join(hashlib.blake2b(run.encode(), digest_size=8).digest() for run in runs)
    return np.sort(np.frombuffer(digests, dtype="<u8").astype(np.uint64))


def jaccard(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> float:
    """Shared shingles over all shingles of two sorted, unique arrays."""
    shared = np.intersect1d(a, b, assume_unique=True).size
    return float(shared / (a.size + b.size - shared))


def bands(similarity: float, num_permutations: int, recall: float) -> tuple[int, int]:
    """(number of bands, hashes of each): the longest bands that still propose the pairs at `similarity`.

    A pair shares one of b bands of r hashes with probability 1 - (1 - s^r)^b, which has to be at least `recall`.
    """
    for width in range(num_permutations, 1, -1):
        num = num_permutations // width
        if 1 - (1 - similarity**width) ** num >= recall:
            return num, width
    return num_permutations, 1


def band_keys(hashes_NP: NDArray[np.uint64], num: int, width: int) -> NDArray[np.uint64]:
    """One 64-bit key for each band of each row's MinHash (N, num): equal bands have equal keys."""
    multipliers = np.random.default_rng(0).integers(1, 2**63, size=width, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    banded_NBW = hashes_NP[:, : num * width].reshape(len(hashes_NP), num, width)
    mixed = (banded_NBW ^ (banded_NBW >> np.uint64(29))) * multipliers
    keys_NB: NDArray[np.uint64] = (mixed ^ (mixed >> np.uint64(32))).sum(axis=2, dtype=np.uint64)
    return keys_NB


def set_key(sorted_shingles: NDArray[np.uint64]) -> int:
    """One 64-bit key of a whole set of shingles: equal sets have equal keys."""
    digest = hashlib.blake2b(sorted_shingles.astype("<u8").tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def candidates(keys_NB: NDArray[np.uint64], most: int) -> Candidates:
    """Pairs of rows with an equal key in some band.

    A row is paired with the first `most` rows of each band it shares and with the one before it, so that neither the
    number of pairs nor the memory is quadratic where thousands of rows are alike.
    """
    num_rows = len(keys_NB)
    found = np.empty(0, dtype=np.int64)
    capped_N = np.zeros(num_rows, dtype=bool)
    for keys_N in keys_NB.T:
        pairs = [earlier * num_rows + later for earlier, later in _pairs(keys_N, most, capped_N)]
        found = np.unique(np.concatenate([found, *pairs]))
    return Candidates(found // max(1, num_rows), found % max(1, num_rows), int(capped_N.sum()))


def _pairs(
    keys_N: NDArray[np.uint64], most: int, capped_N: NDArray[np.bool_]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(earlier, later) positions of one band; marks the rows in `capped_N` that have more neighbours than `most`."""
    order_N = np.argsort(keys_N, kind="stable")
    sorted_N = keys_N[order_N]
    new_N = np.concatenate([[True], sorted_N[1:] != sorted_N[:-1]])[: len(keys_N)]
    first_N = np.flatnonzero(new_N)[np.cumsum(new_N) - 1] if len(keys_N) else np.empty(0, dtype=np.int64)
    rank_N = np.arange(len(keys_N)) - first_N
    for nth in range(min(most, int(rank_N.max(initial=0)))):
        later = np.flatnonzero(rank_N > nth)
        yield order_N[first_N[later] + nth], order_N[later]
    beyond = np.flatnonzero(rank_N > most)
    capped_N[order_N[beyond]] = True
    yield order_N[beyond - 1], order_N[beyond]
