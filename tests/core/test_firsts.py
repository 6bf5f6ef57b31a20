"""First rows and their copies against a plain dict, over random ids that share prefixes and repeat."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from semievol_ray.core.firsts import copies_of, drawn, id_words
from semievol_ray.core.identity import sample_key

# few values of each 8-byte word, so that ids repeat and different ids share their first 64 bits
ID = st.lists(st.sampled_from([b"\x00" * 8, b"\x01" * 8, b"\xff" * 8]), min_size=4, max_size=4).map(b"".join)
IDS = st.lists(ID, min_size=1, max_size=60)


def by_dict(ids: list[bytes]) -> list[int]:
    """The copies of each id at its first row, 0 elsewhere, as a dict finds them."""
    first: dict[bytes, int] = {}
    for row, row_id in enumerate(ids):
        first.setdefault(row_id, row)
    counts = Counter(ids)
    return [counts[row_id] if first[row_id] == row else 0 for row, row_id in enumerate(ids)]


@given(IDS)
def test_copies_stand_at_the_first_row_of_each_id(ids: list[bytes]) -> None:
    assert copies_of(id_words(b"".join(ids))).tolist() == by_dict(ids)


def test_copies_of_many_rows_are_those_of_a_dict() -> None:
    rng = np.random.default_rng(5)
    words = rng.integers(0, 2**63, size=(3000, 4), dtype=np.uint64)[rng.integers(0, 3000, size=20_000)]
    assert copies_of(words).tolist() == by_dict([row.tobytes() for row in words])


@given(IDS, st.integers(1, 70), st.integers(0, 3))
def test_draw_takes_the_rows_that_stay_with_the_smallest_keys(ids: list[bytes], num: int, seed: int) -> None:
    words = id_words(b"".join(ids))
    copies = copies_of(words)
    staying = [row for row, count in enumerate(copies) if count]
    expected = sorted(sorted(staying, key=lambda row: sample_key(seed, ids[row].hex()))[:num])
    found = drawn(copies, words, num, seed)
    assert np.flatnonzero(found).tolist() == expected
    assert found[expected].tolist() == copies[expected].tolist()


def test_no_ids_have_no_copies() -> None:
    assert copies_of(id_words(b"")).tolist() == []
