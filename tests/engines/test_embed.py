"""Batches of texts of like lengths."""

import random

from semievol_ray.engines.embed import CHARACTERS_A_TOKEN, length_sorted


def test_batches_hold_every_text_once_within_the_limits_and_the_longest_first() -> None:
    texts = ["x" * random.Random(i).randrange(0, 400) for i in range(300)]
    batches = list(length_sorted(texts, 500, 16))
    assert sorted(i for batch in batches for i in batch) == list(range(300))
    longest = [max(len(texts[i]) for i in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)
    for batch, length in zip(batches, longest, strict=True):
        assert len(batch) <= 16
        assert len(batch) == 1 or len(batch) * (length // CHARACTERS_A_TOKEN) <= 500
        assert min(len(texts[i]) for i in batch) >= max(
            (len(texts[i]) for b in batches[batches.index(batch) + 1 :] for i in b), default=0
        )


def test_text_longer_than_a_batch_is_a_batch_of_its_own() -> None:
    assert list(length_sorted(["a", "y" * 10_000, "b"], 100, 8)) == [[1], [0, 2]]
    assert list(length_sorted([], 100, 8)) == []
