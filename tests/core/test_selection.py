"""tau and the decisions, against the rule written out by sorting."""

import math
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from semievol_ray.core.selection import (
    Cut,
    Decision,
    cut_after,
    decide,
    exact_cut,
    lowered,
    num_kept,
    percentile_cuts,
    quota_allowances,
    quota_cuts,
    threshold,
    ties_excess,
)

ANY_PACE = settings(deadline=None)  # machines are shared
VALUES = st.lists(st.floats(0, 20, width=32), min_size=1, max_size=60)
THETAS = st.integers(1, 100).map(lambda percent: percent / 100)
FEW_VALUES = st.sampled_from([0.0, 0.25, 0.5])
TIED_ROWS = st.lists(st.tuples(FEW_VALUES, st.sampled_from([0.5, 0.75, 1.0])), min_size=1, max_size=30)
CUTS = st.builds(Cut, FEW_VALUES, st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([None, "b", "d"]))
LABEL_COUNTS = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 50), max_size=4)


def floats(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def accepts(confidence: float, tau: float) -> bool:
    return decide("A", confidence, None, [("", Cut(tau))], 1.0, "a")[0] is Decision.ACCEPTED


def transcribed(confidences: list[float], theta: float) -> float:
    """The ceil(theta R)-th smallest value, by sorting, theta as a decimal."""
    position = math.ceil(Decimal(repr(theta)) * len(confidences))
    return sorted(confidences)[position - 1]


@pytest.mark.parametrize(
    ("theta", "num_rows", "kept"),
    [(0.5, 10, 5), (0.5, 11, 6), (0.1, 30, 3), (0.07, 100, 7), (0.29, 100, 29), (1.0, 7, 7), (0.01, 1, 1), (0.5, 0, 0)],
)
def test_num_kept_rounds_up_the_decimal_share(theta: float, num_rows: int, kept: int) -> None:
    assert num_kept(theta, num_rows) == kept


@pytest.mark.parametrize("theta", [0.0, -0.5, 1.01, float("nan")])
def test_num_kept_of_an_impossible_share_raises(theta: float) -> None:
    with pytest.raises(ValueError, match="theta"):
        num_kept(theta, 10)


@ANY_PACE
@given(VALUES, THETAS)
def test_threshold_matches_the_sorted_transcription(confidences: list[float], theta: float) -> None:
    assert threshold(np.array(confidences, dtype=np.float32), theta) == transcribed(confidences, theta)


@ANY_PACE
@given(VALUES, THETAS)
def test_threshold_accepts_at_least_the_share_and_no_value_more_than_its_ties(
    confidences: list[float], theta: float
) -> None:
    tau = threshold(np.array(confidences, dtype=np.float32), theta)
    accepted = [accepts(value, tau) for value in confidences]
    below = sum(value < tau for value in confidences)
    assert below < num_kept(theta, len(confidences)) <= sum(accepted)


def test_threshold_leaves_its_input_in_order() -> None:
    confidences = np.array([3.0, 1.0, 2.0], dtype=np.float32)
    assert threshold(confidences, 0.5) == 2.0
    assert confidences.tolist() == [3.0, 1.0, 2.0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_threshold_of_a_non_finite_value_raises(bad: float) -> None:
    with pytest.raises(ValueError, match="1 of 2 confidences are not finite"):
        threshold(np.array([0.5, bad], dtype=np.float32), 0.5)


def test_threshold_of_no_row_raises() -> None:
    with pytest.raises(ValueError, match="no row"):
        threshold(np.array([], dtype=np.float32), 0.5)


@pytest.mark.parametrize(
    ("label", "confidence", "error", "decision", "reason"),
    [
        ("A", 0.31, None, Decision.ACCEPTED, "confidence 0.310 is at most tau 0.310"),
        ("A", 0.412, None, Decision.UNCERTAIN, "confidence 0.412 is above tau 0.310"),
        ("A", 0.31001, None, Decision.UNCERTAIN, "confidence 0.31001 is above tau 0.31000"),
        ("A", None, None, Decision.UNCERTAIN, "no confidence: the answer was cut off, or too long to be scored"),
        (None, None, None, Decision.UNREADABLE, "no answer could be read"),
        (None, 0.1, None, Decision.UNREADABLE, "no answer could be read"),
        ("A", 0.1, "prompt too long", Decision.ENGINE_ERROR, "the engine could not answer: prompt too long"),
    ],
)
def test_decide_names_the_decision_and_its_reason(
    label: str | None, confidence: float | None, error: str | None, decision: Decision, reason: str
) -> None:
    assert decide(label, confidence, error, [("", Cut(0.31))], 1.0, "a") == (decision, reason)


def test_decide_compares_as_float32() -> None:
    tau = float(np.float32(0.1))
    assert accepts(0.1, tau)
    assert accepts(tau, 0.1)


def test_decide_non_finite_confidence_raises() -> None:
    with pytest.raises(ValueError, match="not finite"):
        accepts(float("nan"), 0.5)


def test_ties_excess_measures_what_ties_add_in_points() -> None:
    saturated = np.array([0.0] * 8 + [1.0] * 2, dtype=np.float32)
    assert ties_excess(saturated, 0.5, threshold(saturated, 0.5)) == pytest.approx(30.0)
    distinct = np.arange(10, dtype=np.float32)
    assert ties_excess(distinct, 0.5, threshold(distinct, 0.5)) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("confidence", "share", "row_id", "cuts", "reason"),
    [
        (0.4, 1.0, "a", [("", Cut(0.5)), ("quota of plant", Cut(0.3))],
         "confidence 0.400 is above tau 0.300 (quota of plant)"),
        (0.4, 1.0, "a", [("group law", Cut(0.3))], "confidence 0.400 is above tau 0.300 (group law)"),
        (0.5, 0.5, "a", [("", Cut(0.5, 0.75, "a"))],
         "confidence 0.500 is tied at tau and behind in vote share, 0.50 to 0.75"),
        (0.5, 0.75, "b", [("", Cut(0.5, 0.75, "a"))],
         "confidence 0.500 is tied at tau and in vote share, and behind by id"),
        (0.5, 1.0, "a", [("", Cut(0.5)), ("quota of plant", Cut(0.5, 1.0, ""))],
         "confidence 0.500 is tied at tau with more rows than fit (quota of plant)"),
    ],
)  # fmt: skip
def test_decide_names_the_cut_that_leaves_the_row_out(
    confidence: float, share: float, row_id: str, cuts: Sequence[tuple[str, Cut]], reason: str
) -> None:
    assert decide("plant", confidence, None, cuts, share, row_id) == (Decision.UNCERTAIN, reason)


def test_decide_accepts_only_what_every_cut_keeps() -> None:
    cuts = [("group law", Cut(0.5)), ("quota of A", Cut(0.4))]
    assert decide("A", 0.4, None, cuts, 0.5, "a") == (
        Decision.ACCEPTED, "confidence 0.400 is at most tau 0.500 (group law)"
    )  # fmt: skip
    assert decide("A", 0.45, None, cuts, 0.5, "a")[0] is Decision.UNCERTAIN


def test_decide_without_a_cut_raises_only_for_a_row_with_a_confidence() -> None:
    assert decide("A", None, None, [], 0.5, "a")[0] is Decision.UNCERTAIN
    with pytest.raises(ValueError, match="no cut for row a"):
        decide("A", 0.1, None, [], 0.5, "a")


def test_percentile_cuts_take_the_share_of_each_key_and_skip_empty_ones() -> None:
    cuts = percentile_cuts({"x": floats(3, 1, 2, 4), "y": floats(9, 8), "z": floats()}, 0.5)
    assert cuts == {"x": Cut(2.0), "y": Cut(8.0)}


def in_order(rows: list[tuple[float, float]]) -> list[tuple[float, float, str]]:
    """(H, -vote share, id), best first."""
    return sorted((h, -share, f"{i:02d}") for i, (h, share) in enumerate(rows))


@ANY_PACE
@given(TIED_ROWS, THETAS)
def test_exact_cut_keeps_the_first_rows_by_confidence_then_vote_share_then_id(
    rows: list[tuple[float, float]], theta: float
) -> None:
    ordered = in_order(rows)
    tau = threshold(floats(*[h for h, _ in rows]), theta)
    cut = exact_cut(floats(*[h for h, _ in rows]), theta, [(-s, i) for h, s, i in reversed(ordered) if h == tau])
    kept = [row for row in ordered if cut.keeps(row[0], -row[1], row[2])]
    assert kept == ordered[: num_kept(theta, len(rows))]


def test_cut_after_refuses_ties_that_are_not_all_of_them() -> None:
    with pytest.raises(ValueError, match="1 ties given where 2 rows"):
        cut_after(floats(1, 1, 2), 1, [(0.5, "a")])
    with pytest.raises(ValueError, match="4 of 3 rows"):
        cut_after(floats(1, 1, 2), 4, [])


@ANY_PACE
@given(CUTS, CUTS, FEW_VALUES, st.sampled_from([0.0, 0.5, 0.75, 1.0]), st.sampled_from("abcde"))
def test_lowered_keeps_exactly_what_both_cuts_keep(
    a: Cut, b: Cut, confidence: float, share: float, row_id: str
) -> None:
    both = a.keeps(confidence, share, row_id) and b.keeps(confidence, share, row_id)
    assert lowered({"k": a}, {"k": b})["k"].keeps(confidence, share, row_id) == both


def test_lowered_leaves_a_key_that_the_ceiling_does_not_have() -> None:
    assert lowered({"new": Cut(0.9), "old": Cut(0.9)}, {"old": Cut(0.2), "gone": Cut(0.1)}) == {
        "new": Cut(0.9), "old": Cut(0.2)
    }  # fmt: skip


@ANY_PACE
@given(st.dictionaries(st.sampled_from("abcd"), VALUES, max_size=4), LABEL_COUNTS, st.integers(10, 40))
def test_quota_cuts_keep_as_many_whole_ties_as_the_allowance_holds(
    kept: dict[str, list[float]], label_counts: dict[str, int], tenths: int
) -> None:
    total, num_answers = sum(map(len, kept.values())), len(kept.keys() | label_counts.keys())
    cuts = quota_cuts({a: floats(*v) for a, v in kept.items()}, label_counts, tenths / 10)
    assert cuts.keys() == kept.keys()
    for answer, values in kept.items():
        share = Fraction(label_counts.get(answer, 0) + 1, sum(label_counts.values()) + num_answers)
        most = math.ceil(Fraction(tenths, 10) * total * share)
        ends = [sum(v <= end for v in values) for end in values]
        fitting = max((n for n in ends if n <= most), default=0)
        assert sum(cuts[answer].keeps(v, 1.0, "a") for v in values) == fitting


def test_quota_allowances_of_a_matching_mix_leave_every_row() -> None:
    assert quota_allowances({"a": 30, "b": 10}, {"a": 29, "b": 9}, 1) == {"a": 30, "b": 10}
    assert quota_allowances({"a": 40, "b": 0}, {"a": 19, "b": 19}, 1) == {"a": 20, "b": 20}
    with pytest.raises(ValueError, match="quota must be at least 1"):
        quota_allowances({"a": 1}, {"a": 1}, 0.5)
