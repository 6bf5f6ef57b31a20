"""Row identity and the file-order-free sample."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from semievol_ray.core.identity import normalise, row_id, sample_key


@given(st.text())
def test_normalise_twice_is_once(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_row_id_ignores_white_space_and_unicode_form() -> None:
    composed, decomposed = "caf\u00e9 au lait", "  cafe\u0301\n\tau  lait "
    assert composed != decomposed
    assert row_id("t", composed, ["x y"]) == row_id(" t", decomposed, ["x  y "])


def test_row_id_tells_rows_apart_that_only_join_alike() -> None:
    rows = [
        ("t", "q", None),
        ("t", "q", []),
        ("t", "q", [""]),
        ("t", "q", ["a", "b"]),
        ("t", "q", ["b", "a"]),
        ("t", "q", ["a b"]),
        ("t", "q", ['a","b']),
        ("t q", "", None),
        ("t", "Q", None),
    ]
    assert len({row_id(*row) for row in rows}) == len(rows)


def test_row_id_stays_as_published() -> None:
    # sha256sum of the bytes ["arc", "Which?", ["x", "y"]]; a change would orphan every run directory
    assert row_id("arc", "Which?", ["x", "y"]) == "7808ab1c3bcb84f9a64dd85e11ebaa92a1666a0096818e71357a298efcdf8b84"


def test_row_id_accepts_any_code_point() -> None:
    assert len(row_id("t", "half a pair \ud83d", None)) == 64
    assert row_id("t", unicodedata.lookup("KELVIN SIGN"), None) == row_id("t", "K", None)


@given(st.integers(), st.text(alphabet="0123456789abcdef", max_size=64))
def test_sample_key_is_in_the_unit_interval_and_repeatable(seed: int, row: str) -> None:
    assert 0.0 <= sample_key(seed, row) < 1.0
    assert sample_key(seed, row) == sample_key(seed, row)


def test_sample_keys_are_spread_evenly_and_differ_by_seed() -> None:
    keys = [sample_key(0, str(i)) for i in range(4000)]
    assert all(900 < sum(low <= key < low + 0.25 for key in keys) < 1100 for low in (0.0, 0.25, 0.5, 0.75))
    assert not set(keys) & {sample_key(1, str(i)) for i in range(4000)}
