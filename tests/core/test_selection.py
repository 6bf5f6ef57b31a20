"""tau and the decisions, against the rule written out by sorting."""

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol_ray.core.selection import Decision, decide, num_kept, threshold, ties_excess

VALUES = st.lists(st.floats(0, 20, width=32), min_size=1, max_size=60)
THETAS = st.integers(1, 100).map(lambda percent: percent / 100)


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


@given(VALUES, THETAS)
def test_threshold_matches_the_sorted_transcription(confidences: list[float], theta: float) -> None:
    assert threshold(np.array(confidences, dtype=np.float32), theta) == transcribed(confidences, theta)


@given(VALUES, THETAS)
def test_threshold_accepts_at_least_the_share_and_no_value_more_than_its_ties(
    confidences: list[float], theta: float
) -> None:
    tau = threshold(np.array(confidences, dtype=np.float32), theta)
    accepted = [decide("A", value, None, tau)[0] is Decision.ACCEPTED for value in confidences]
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
        ("A", None, None, Decision.UNCERTAIN, "no confidence: the answer was cut off before its end"),
        (None, None, None, Decision.UNREADABLE, "no answer could be read"),
        (None, 0.1, None, Decision.UNREADABLE, "no answer could be read"),
        ("A", 0.1, "prompt too long", Decision.ENGINE_ERROR, "the engine could not answer: prompt too long"),
    ],
)
def test_decide_names_the_decision_and_its_reason(
    label: str | None, confidence: float | None, error: str | None, decision: Decision, reason: str
) -> None:
    assert decide(label, confidence, error, 0.31) == (decision, reason)


def test_decide_compares_as_float32() -> None:
    tau = float(np.float32(0.1))
    assert decide("A", 0.1, None, tau)[0] is Decision.ACCEPTED
    assert decide("A", tau, None, 0.1)[0] is Decision.ACCEPTED


def test_decide_non_finite_confidence_raises() -> None:
    with pytest.raises(ValueError, match="not finite"):
        decide("A", float("nan"), None, 0.5)


def test_ties_excess_measures_what_ties_add_in_points() -> None:
    saturated = np.array([0.0] * 8 + [1.0] * 2, dtype=np.float32)
    assert ties_excess(saturated, 0.5, threshold(saturated, 0.5)) == pytest.approx(30.0)
    distinct = np.arange(10, dtype=np.float32)
    assert ties_excess(distinct, 0.5, threshold(distinct, 0.5)) == pytest.approx(0.0)
