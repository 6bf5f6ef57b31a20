"""Scales: what is drawn where, and which ticks name it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol_ray.reporting import svg

SHARES = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)


@given(SHARES)
def test_share_axis_holds_both_ends_with_few_round_ticks(ends: list[float]) -> None:
    axis = svg.share_axis(ends[0], ends[1])
    assert axis.low <= ends[0] + 1e-9
    assert axis.high >= ends[1] - 1e-9
    assert 2 <= len(axis.ticks) <= 6
    assert [axis.at(value) for value, _ in (axis.ticks[0], axis.ticks[-1])] == [0, 100]


@pytest.mark.parametrize(
    ("low", "high", "names"),
    [
        (0.62, 0.91, ["60%", "70%", "80%", "90%", "100%"]),
        (0.71, 0.719, ["71%", "72%"]),
        (0.0, 1.0, ["0%", "20%", "40%", "60%", "80%", "100%"]),
        (1.0, 1.0, ["99%", "100%"]),
    ],
)
def test_share_axis_has_the_ticks_that_fit_its_range(low: float, high: float, names: list[str]) -> None:
    assert [name for _, name in svg.share_axis(low, high).ticks] == names


@given(st.integers(0, 10**9))
def test_count_axis_starts_at_zero_and_reaches_the_highest_count(high: int) -> None:
    axis = svg.count_axis(high)
    assert axis.low == 0
    assert axis.high >= high
    assert 2 <= len(axis.ticks) <= 6
    assert len({name for _, name in axis.ticks}) == len(axis.ticks)


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (950, "950"), (1200, "1.2k"), (35_000, "35k"), (2e6, "2M"), (1.5e9, "1.5G")]
)
def test_compact_counts_are_short(value: float, shown: str) -> None:
    assert svg.compact(value) == shown


def test_position_outside_the_axis_is_its_nearest_end() -> None:
    axis = svg.share_axis(0.5, 0.9)
    assert (axis.at(0.1), axis.at(2.0)) == (0, 100)


def test_words_in_a_chart_are_escaped() -> None:
    assert "&lt;b&gt;" in svg.text("<b>", 0, 0)
    assert "<b>" not in svg.chart("n", "<b>", "<b>", 10, [svg.rect("accepted", 0, 0, 1, 1, "<b>")], "0")
