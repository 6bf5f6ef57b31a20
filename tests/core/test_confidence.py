"""H from token log-probabilities."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semievol_ray.core.confidence import answer_nll, answer_posterior, mean_nll

ANY_PACE = settings(deadline=None)  # machines are shared


def test_mean_nll_is_the_mean_of_negated_logprobs() -> None:
    assert mean_nll([math.log(0.5), math.log(0.25)]) == pytest.approx(1.5 * math.log(2), rel=1e-6)


def test_mean_nll_of_no_token_is_none() -> None:
    assert mean_nll([]) is None


def test_mean_nll_of_certain_tokens_is_positive_zero() -> None:
    value = mean_nll([0.0, -0.0])
    assert value is not None
    assert math.copysign(1.0, value) == 1.0


@pytest.mark.parametrize("bad", [float("nan"), float("-inf"), float("inf")])
def test_mean_nll_of_a_non_finite_logprob_raises(bad: float) -> None:
    with pytest.raises(ValueError, match="log-probability 1 is not finite"):
        mean_nll([-0.1, bad])


@ANY_PACE
@given(st.lists(st.floats(-50, 0), min_size=1, max_size=40))
def test_mean_nll_is_a_float32_value_between_its_extremes(logprobs: list[float]) -> None:
    value = mean_nll(logprobs)
    assert value is not None
    assert float(np.float32(value)) == value
    assert np.float32(-max(logprobs)) <= value <= np.float32(-min(logprobs))


def test_answer_nll_counts_only_tokens_that_overlap_the_answer() -> None:
    spans = [(0, 6), (6, 7), (7, 9), (9, 10)]  # "Answer" ":" " B" "."
    assert answer_nll([-1.0, -2.0, -4.0, -8.0], spans, 8, 9) == 4.0
    assert answer_nll([-1.0, -2.0, -4.0, -8.0], spans, 8, 10) == 6.0


def test_answer_nll_ignores_tokens_without_characters() -> None:
    assert answer_nll([-1.0, -3.0], [(2, 2), (2, 4)], 0, 5) == 3.0


def test_answer_nll_without_an_overlapping_token_is_none() -> None:
    assert answer_nll([-1.0], [(0, 6)], 6, 7) is None


def test_answer_nll_of_unequal_lengths_raises() -> None:
    with pytest.raises(ValueError, match="1 log-probabilities for 2"):
        answer_nll([-1.0], [(0, 1), (1, 2)], 0, 1)


@ANY_PACE
@given(st.lists(st.floats(-80, 0), min_size=1, max_size=12), st.data())
def test_answer_posterior_is_the_negated_log_of_the_renormalised_share(
    logprobs: list[float], data: st.DataObject
) -> None:
    kept = data.draw(st.integers(0, len(logprobs) - 1))
    shares = [Fraction(math.exp(value)) for value in logprobs]
    expected = -math.log(shares[kept] / sum(shares))
    value = answer_posterior(logprobs, kept)
    assert value == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert float(np.float32(value)) == value
    assert math.copysign(1.0, value) == 1.0


def test_answer_posterior_of_far_apart_candidates_does_not_underflow() -> None:
    assert answer_posterior([-2000.0, -1000.0], 0) == 1000.0
    assert answer_posterior([-2000.0, -1000.0], 1) == 0.0
    assert answer_posterior([-5000.0] * 4, 2) == pytest.approx(math.log(4))


@pytest.mark.parametrize("bad", [float("nan"), float("-inf"), float("inf")])
def test_answer_posterior_of_a_non_finite_candidate_raises(bad: float) -> None:
    with pytest.raises(ValueError, match="candidate 1 is not finite"):
        answer_posterior([-0.1, bad], 0)


@pytest.mark.parametrize("kept", [-1, 2])
def test_answer_posterior_of_an_answer_that_is_no_candidate_raises(kept: int) -> None:
    with pytest.raises(ValueError, match=f"no candidate {kept} among 2"):
        answer_posterior([-0.1, -0.2], kept)
