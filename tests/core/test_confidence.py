"""H from token log-probabilities."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol_ray.core.confidence import answer_nll, mean_nll


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
