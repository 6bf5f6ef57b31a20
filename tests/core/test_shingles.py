import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol_ray.core.shingles import band_keys, bands, candidates, jaccard, set_key, shingles

WORDS = st.lists(st.sampled_from(["oak", "elm", "tall", "a", "Tree", "is"]), min_size=1, max_size=12)


def plain(words: list[str]) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}


@given(WORDS, WORDS)
def test_jaccard_of_shingles_is_that_of_sets_of_three_words(a: list[str], b: list[str]) -> None:
    of_a, of_b = (plain([word.lower() for word in words]) for words in (a, b))

    found = jaccard(shingles(" ".join(a), None), shingles(" ".join(b), None))

    assert found == pytest.approx(len(of_a & of_b) / len(of_a | of_b))


def test_shingles_do_not_see_case_punctuation_and_white_space() -> None:
    assert set_key(shingles("What is  an oak?", None)) == set_key(shingles("what is: an OAK", None))


def test_shingles_of_options_belong_to_the_text() -> None:
    same = "Which of the following statements is true?"
    assert jaccard(shingles(same, ["a cat barks", "a dog barks"]), shingles(same, ["x is 3 or 4", "x is 5"])) < 0.6


@pytest.mark.parametrize("text", ["", "?!", "oak", "größe 東京"])
def test_shingles_of_a_short_text_equal_nothing_but_itself(text: str) -> None:
    assert shingles(text, None).size == 1
    assert jaccard(shingles(text, None), shingles("elm", None)) == 0


@pytest.mark.parametrize("similarity", [0.3, 0.5, 0.8, 0.9, 0.95, 1.0])
def test_bands_fit_the_permutations_and_miss_one_pair_in_a_hundred_at_most(similarity: float) -> None:
    num, width = bands(similarity, 128, 0.99)

    assert num * width <= 128
    assert 1 - (1 - similarity**width) ** num >= 0.99


def test_band_keys_agree_exactly_where_the_band_does() -> None:
    hashes = np.arange(12, dtype=np.uint64).reshape(2, 6)
    hashes[1, 2:4] = hashes[0, 2:4]

    keys_NB = band_keys(hashes, 3, 2)

    assert (keys_NB[0] == keys_NB[1]).tolist() == [False, True, False]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=0, max_size=12))
def test_candidates_are_the_pairs_that_share_a_key(rows: list[tuple[int, int]]) -> None:
    keys_NB = np.array(rows, dtype=np.uint64).reshape(-1, 2)
    sharing = [
        (i, j) for j in range(len(rows)) for i in range(j) if any(a == b for a, b in zip(rows[i], rows[j], strict=True))
    ]

    found = candidates(keys_NB, 100)

    assert list(zip(found.earlier.tolist(), found.later.tolist(), strict=True)) == sorted(sharing)
    assert found.num_capped == 0


def test_candidates_of_thousands_of_equal_rows_stay_few_and_reach_every_row() -> None:
    found = candidates(np.zeros((5000, 2), dtype=np.uint64), 4)

    assert len(found.later) <= 5 * 5000
    assert set(found.later.tolist()) == set(range(1, 5000))
    assert {(0, later) for later in range(1, 5000)} <= set(
        zip(found.earlier.tolist(), found.later.tolist(), strict=True)
    )
    assert found.num_capped == 5000 - 5
