"""Certified thresholds and bounded error shares, against exact arithmetic and pools whose answers are known."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.quality.calibration import POOLS, draw, simulate
from semievol_ray.core.calibration import (
    candidate_taus,
    fdr_threshold,
    fewest_certifying,
    first_tested,
    largest_certifiable,
    precision_bound,
    precision_lower_bound,
    smallest_error,
    upper_tail,
)

ANY_PACE = settings(deadline=None)  # machines are shared
VALUES = st.lists(st.floats(0, 4, width=16), min_size=1, max_size=40)


def floats(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def exact_tail(k: int, n: int, p: Fraction) -> Fraction:
    """P(Binomial(n, p) >= k), term by term in fractions."""
    return sum((math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1)), Fraction(0))


@ANY_PACE
@given(st.integers(1, 80), st.data(), st.integers(1, 99))
def test_upper_tail_matches_exact_fractions(n: int, data: st.DataObject, percent: int) -> None:
    k = data.draw(st.integers(0, n))
    exact = float(exact_tail(k, n, Fraction(percent, 100)))
    assert upper_tail(k, n, percent / 100) == pytest.approx(exact, rel=1e-9)


def test_upper_tail_of_a_hundred_thousand_rows_is_near_the_normal_value() -> None:
    assert upper_tail(90_000, 100_000, 0.9) == pytest.approx(0.5, abs=0.005)
    assert upper_tail(50_000, 100_000, 0.9) == pytest.approx(1.0)
    assert 0 <= upper_tail(100_000, 100_000, 0.9) < 1e-300


@ANY_PACE
@given(st.integers(1, 300), st.data(), st.sampled_from([0.5, 0.9, 0.95, 0.99]), st.sampled_from([0.8, 0.95]))
def test_precision_lower_bound_reaches_the_target_exactly_when_the_tail_allows_it(
    n: int, data: st.DataObject, target: float, level: float
) -> None:
    k = data.draw(st.integers(0, n))
    bound = precision_lower_bound(k, n, level)
    assert 0 <= bound <= k / n
    if abs(bound - target) > 1e-9:
        assert (bound > target) == (upper_tail(k, n, target) <= 1 - level)


@pytest.mark.parametrize(("k", "n", "bound"), [(10, 10, 0.7411), (45, 50, 0.8012), (0, 5, 0.0), (0, 0, 0.0)])
def test_precision_lower_bound_matches_published_clopper_pearson_values(k: int, n: int, bound: float) -> None:
    assert precision_lower_bound(k, n, 0.95) == pytest.approx(bound, abs=5e-5)


@pytest.mark.parametrize(
    ("target", "level", "fewest"), [(0.95, 0.95, 59), (0.9, 0.95, 29), (0.99, 0.95, 299), (0.5, 0.75, 2)]
)
def test_fewest_certifying_is_the_first_number_whose_all_right_bound_reaches_the_target(
    target: float, level: float, fewest: int
) -> None:
    assert fewest_certifying(target, level) == fewest
    assert largest_certifiable(fewest, level) >= target > largest_certifiable(fewest - 1, level)


def test_largest_certifiable_of_no_row_is_zero() -> None:
    assert largest_certifiable(0, 0.95) == 0.0


@ANY_PACE
@given(st.integers(0, 100_000))
def test_first_tested_lies_between_the_fewest_that_certify_and_the_slice(num_dev: int) -> None:
    assert 59 <= first_tested(num_dev, 0.95, 0.95) <= max(59, num_dev)


@ANY_PACE
@given(VALUES, st.integers(0, 500), st.integers(1, 30))
def test_candidate_taus_increase_occur_in_the_pool_and_end_with_its_largest(
    pool: list[float], num_dev: int, num: int
) -> None:
    taus_T = candidate_taus(floats(*pool), num_dev, num, 0.9, 0.95)
    assert 1 <= len(taus_T) <= num
    assert set(taus_T.tolist()) <= set(pool)
    assert (np.diff(taus_T) > 0).all()
    assert num == 1 or taus_T[-1] == max(pool)


def test_candidate_taus_of_an_empty_pool_raises() -> None:
    with pytest.raises(ValueError, match="no row"):
        candidate_taus(floats(), 100, 20, 0.9, 0.95)


def test_precision_bound_stops_at_the_first_failure_though_a_later_one_would_pass() -> None:
    confidences_D = floats(*[1.0] * 60, *[2.0] * 20, *[3.0] * 2000)
    correct_D = np.array([True] * 60 + [False] * 20 + [True] * 2000)
    found = precision_bound(confidences_D, correct_D, floats(1, 2, 3), 0.95, 0.95)
    assert found is not None
    assert (found.tau, found.num_rows, found.num_correct) == (1.0, 60, 60)
    assert found.lower_bound == pytest.approx(0.05 ** (1 / 60))
    assert precision_bound(confidences_D, correct_D, floats(2, 3), 0.95, 0.95) is None
    alone = precision_bound(confidences_D, correct_D, floats(3), 0.95, 0.95)
    assert alone is not None
    assert alone.num_rows == 2080


def test_precision_bound_of_too_few_rows_is_none() -> None:
    assert precision_bound(np.zeros(58, np.float32), np.ones(58, bool), floats(0), 0.95, 0.95) is None
    assert precision_bound(np.zeros(59, np.float32), np.ones(59, bool), floats(0), 0.95, 0.95) is not None
    assert precision_bound(floats(), np.array([], dtype=bool), floats(0), 0.95, 0.95) is None


@ANY_PACE
@given(st.lists(st.tuples(st.floats(0, 4, width=16), st.booleans()), max_size=60), VALUES, st.integers(40, 90))
def test_precision_bound_matches_the_rule_written_out(
    rows: list[tuple[float, bool]], pool: list[float], percent: int
) -> None:
    candidates = sorted(set(pool))
    expected = None
    for tau in candidates:
        below = [right for h, right in rows if h <= tau]
        if exact_tail(sum(below), len(below), Fraction(percent, 100)) > Fraction(1, 10):
            break
        expected = (tau, len(below), sum(below))
    correct_D = np.array([right for _, right in rows], dtype=bool)
    found = precision_bound(floats(*[h for h, _ in rows]), correct_D, floats(*candidates), percent / 100, 0.9)
    assert (found and (found.tau, found.num_rows, found.num_correct)) == expected


@pytest.mark.parametrize("bad", [0.0, 1.0, float("nan")])
def test_precision_bound_of_an_impossible_target_or_level_raises(bad: float) -> None:
    with pytest.raises(ValueError, match="target must be"):
        precision_bound(floats(1), np.array([True]), floats(1), bad, 0.95)
    with pytest.raises(ValueError, match="level must be"):
        precision_bound(floats(1), np.array([True]), floats(1), 0.9, bad)


def test_precision_bound_of_candidates_out_of_order_raises() -> None:
    with pytest.raises(ValueError, match="do not increase"):
        precision_bound(floats(1), np.array([True]), floats(2, 1), 0.9, 0.95)


def benjamini_hochberg(wrong: list[float], num_dev: int, pool: list[float], target_error: Fraction) -> float | None:
    """The step-up rule on conformal p-values of the whole slice, right rows at infinity, in fractions."""
    p_values = sorted((Fraction(1 + sum(w <= h for w in wrong), num_dev + 1), h) for h in pool)
    accepted = [h for i, (p, h) in enumerate(p_values, 1) if p <= target_error * i / len(pool)]
    return max(accepted, default=None)


@ANY_PACE
@given(st.lists(st.floats(0, 4, width=16), max_size=20), st.integers(0, 60), VALUES, st.integers(1, 15))
def test_fdr_threshold_matches_benjamini_hochberg_in_fractions(
    wrong: list[float], num_right: int, pool: list[float], sixteenths: int
) -> None:
    num_dev = len(wrong) + num_right
    found = fdr_threshold(floats(*wrong), num_dev, floats(*pool), sixteenths / 16)
    assert found == benjamini_hochberg(wrong, num_dev, pool, Fraction(sixteenths, 16))


@pytest.mark.parametrize("percent", [1, 5, 10, 20, 30])
def test_smallest_error_is_the_first_at_which_a_slice_without_a_wrong_row_accepts_any(percent: int) -> None:
    for num_dev in range(1, 130):
        reached = fdr_threshold(floats(), num_dev, floats(*range(1, 8)), percent / 100) is not None
        assert reached is (percent / 100 >= smallest_error(num_dev))


def test_fdr_threshold_of_an_empty_pool_or_slice_accepts_nothing() -> None:
    assert fdr_threshold(floats(), 100, floats(), 0.1) is None
    assert fdr_threshold(floats(), 0, floats(1, 2), 0.5) is None


def test_fdr_threshold_of_more_wrong_rows_than_the_slice_raises() -> None:
    with pytest.raises(ValueError, match="2 wrong rows in a slice of 1"):
        fdr_threshold(floats(1, 2), 1, floats(1), 0.1)


@pytest.fixture(scope="module")
def simulated() -> list[tuple[bool, float, float, float]]:
    """Per repetition of the standard pool: target held, accepted by the bound, error and accepted under fdr."""
    found = simulate("standard", 0.9, [1000], 200, seed=5)
    return [
        (r.bound.error <= 0.1, r.bound.accepted, r.fdr.error, r.fdr.accepted) for one in found.values() for r in one
    ]


def test_precision_bound_holds_its_target_in_simulated_pools(
    simulated: list[tuple[bool, float, float, float]],
) -> None:
    held = sum(row[0] for row in simulated)
    assert held >= 190  # 95%; 97.6% of 1,000 in the benchmark
    assert np.mean([row[1] for row in simulated]) > 0.2  # the best threshold keeps 0.46


def test_fdr_threshold_holds_its_target_in_simulated_pools(simulated: list[tuple[bool, float, float, float]]) -> None:
    errors = np.array([row[2] for row in simulated])
    assert errors.mean() - 3 * errors.std() / len(errors) ** 0.5 <= 0.1
    assert np.mean([row[3] for row in simulated]) > 0.4


def test_fdr_threshold_does_not_hold_for_a_slice_with_fewer_wrong_rows_though_these_are_exchangeable() -> None:
    generator, errors = np.random.default_rng(5), []
    for _ in range(200):
        pool_R, right_R = draw(generator, 2000, POOLS["standard"])
        confidences_D, correct_D = draw(generator, 2000, POOLS["standard"])
        kept_D = correct_D | (generator.random(2000) < 0.25)  # wrong rows by chance alone: their H is drawn alike
        tau = fdr_threshold(confidences_D[~correct_D & kept_D], int(kept_D.sum()), pool_R, 0.1)
        errors.append(0.0 if tau is None else float((~right_R[pool_R <= tau]).mean()))
    assert np.mean(errors) > 0.15


def test_precision_bound_rarely_certifies_where_confidence_says_nothing() -> None:
    generator, certified = np.random.default_rng(6), 0
    for _ in range(400):
        pool_R, _ = draw(generator, 2000, POOLS["flat"])
        confidences_D, correct_D = draw(generator, 500, POOLS["flat"])
        candidates_T = candidate_taus(pool_R, 500, 20, 0.895, 0.95)
        certified += precision_bound(confidences_D, correct_D, candidates_T, 0.895, 0.95) is not None
    assert certified <= 29  # 400 times 5%, and two standard deviations; in order 4, and 37 where any candidate may pass
