"""Thresholds that a slice of labelled rows vouches for: certified precision, and a bounded share of wrong labels.

Both rules assume that the slice is exchangeable with the pool (drawn alike, answered by the same steps, and in no
training set); `precision_bound` further that both are large enough draws of one population to be taken as independent.
Only rows with a confidence count, in the slice as in the pool. The letters: D rows of the slice, W its wrong ones,
R rows of the pool, T candidate thresholds. Invariant: which rows are right never decides what is tested, or in what
order; a threshold is a float32 value that occurs in the pool.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

START_EXPONENT = 0.4
"""How far from the fewest rows that certify (0) towards the whole slice (1) testing starts, in logarithms."""


@dataclass(frozen=True)
class Certified:
    """A threshold and its evidence: of the slice's `num_rows` with H <= tau, `num_correct` are right.

    `lower_bound` is the one-sided Clopper-Pearson bound of the precision at the level that was asked for.
    """

    tau: float
    num_rows: int
    num_correct: int
    lower_bound: float


def fewest_certifying(target: float, level: float) -> int:
    """The fewest rows, all right, that certify a precision of `target`: ln(1 - level) / ln(target), 59 for 95%/95%."""
    _check(target, level)
    return math.ceil(math.log(1 - level) / math.log(target) - 1e-9)


def largest_certifiable(num_rows: int, level: float) -> float:
    """The largest precision that `num_rows` rows can certify, all being right: (1 - level)^(1 / n); 0 without rows."""
    return float((1 - level) ** (1 / num_rows)) if num_rows else 0.0


def smallest_error(num_rows: int) -> float:
    """The smallest `target_error` at which `fdr_threshold` can accept a row, none of D rows being wrong: 1/(D + 1)."""
    return 1 / (num_rows + 1)


def upper_tail(num_correct: int, num_rows: int, precision: float) -> float:
    """P(Binomial(n, p) >= k), exact to rounding: the first term by lgamma, the others by ratios, in logarithms."""
    if num_correct <= 0:
        return 1.0
    if num_correct > num_rows or precision <= 0:
        return 0.0
    if precision >= 1:
        return 1.0
    first = (
        math.lgamma(num_rows + 1) - math.lgamma(num_correct + 1) - math.lgamma(num_rows - num_correct + 1)
        + num_correct * math.log(precision) + (num_rows - num_correct) * math.log1p(-precision)
    )  # fmt: skip
    i = np.arange(num_correct, num_rows, dtype=np.float64)
    terms = first + np.append(0.0, np.cumsum(np.log((num_rows - i) / (i + 1) * (precision / (1 - precision)))))
    largest = float(terms.max())
    return min(1.0, math.exp(largest) * float(np.exp(terms - largest).sum()))


def precision_lower_bound(num_correct: int, num_rows: int, level: float) -> float:
    """The one-sided Clopper-Pearson lower bound: the p where P(Binomial(n, p) >= k) is 1 - level, by bisection.

    It is at least `target` exactly when `upper_tail(k, n, target) <= 1 - level`.
    """
    low, high = 0.0, num_correct / num_rows if num_rows else 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if upper_tail(num_correct, num_rows, middle) <= 1 - level else (low, middle)
    return low


def first_tested(num_dev: int, target: float, level: float) -> int:
    """How many of the slice's D rows the first candidate is to leave: m (D / m)^0.4, m the `fewest_certifying`.

    m rows pass only without an error, so a sequence that starts there mostly ends there. Measured (300 repetitions of
    the `standard` pool of benchmarks/quality/calibration.py, target 0.9, slices of 300 / 1,000 / 2,000; the best
    threshold keeps 46%): a start at m keeps 4 / 14 / 23% of the pool, at (D m)^0.5 8 / 29 / 36%, here 10 / 28 / 36%;
    four starts with a quarter of 1 - level each, which goes on with what passes, keep 3 / 19 / 32%. In the `harder`
    pool (best 11%) the start at (D m)^0.5 keeps 0.4% and the one here 1.0% (slice of 2,000).
    """
    fewest = fewest_certifying(target, level)
    return math.ceil(fewest * math.pow(max(1.0, num_dev / fewest), START_EXPONENT))


def candidate_taus(
    pool_R: NDArray[np.float32], num_dev: int, num_thresholds: int, target: float, level: float
) -> NDArray[np.float32]:
    """At most `num_thresholds` increasing taus to test: the pool's own H at equal steps of its share, up to all of it.

    The first leaves about `first_tested` rows of the slice, going by the pool's shares. Nothing of the slice but its
    size is used, so all is fixed before any test. `num_dev` counts rows with a confidence. ValueError: no pool row.
    """
    if pool_R.size == 0:
        raise ValueError("the pool has no row with a confidence")
    strictest = min(1.0, first_tested(num_dev, target, level) / max(num_dev, 1))
    shares_T = np.linspace(strictest, 1.0, num_thresholds)
    positions_T = np.ceil(shares_T * pool_R.size).astype(np.int64) - 1
    return np.unique(np.sort(np.asarray(pool_R, dtype=np.float32))[positions_T])


def precision_bound(
    confidences_D: NDArray[np.float32],
    correct_D: NDArray[np.bool_],
    candidates_T: NDArray[np.float32],
    target: float,
    level: float,
) -> Certified | None:
    """The last candidate before the first, in increasing order, that the slice does not certify; None: not even that.

    A candidate is certified when its Clopper-Pearson lower bound is at least `target`. Fixed-sequence testing: every
    test has the whole 1 - level, because testing ends with the first failure; so the chance that a threshold whose
    precision is below `target` comes out is at most 1 - level, however precision runs with H. That needs candidates
    chosen without the slice's answers (`candidate_taus`). It is the chance over all slices, those that certify nothing
    included: where few slices do, more of the certified thresholds fall short (`held_if` in the benchmark).
    ValueError when lengths differ or candidates do not increase.
    """
    _check(target, level)
    if len(confidences_D) != len(correct_D):
        raise ValueError(f"{len(confidences_D)} confidences for {len(correct_D)} rows of the slice")
    taus_T = np.asarray(candidates_T, dtype=np.float32)
    if (np.diff(taus_T) <= 0).any():
        raise ValueError("the candidate thresholds do not increase")
    order = np.argsort(confidences_D, kind="stable")
    rows_T = np.searchsorted(np.asarray(confidences_D, dtype=np.float32)[order], taus_T, side="right")
    right_T = np.append(0, np.cumsum(np.asarray(correct_D, dtype=bool)[order]))[rows_T]
    counted = [(int(n), int(k)) for n, k in zip(rows_T, right_T, strict=True)]
    failing = (t for t, (n, k) in enumerate(counted) if upper_tail(k, n, target) > 1 - level)
    last = next(failing, len(counted)) - 1
    if last < 0:
        return None
    n, k = counted[last]
    return Certified(float(taus_T[last]), n, k, precision_lower_bound(k, n, level))


def fdr_threshold(
    wrong_W: NDArray[np.float32], num_dev: int, pool_R: NDArray[np.float32], target_error: float
) -> float | None:
    """The largest tau that keeps the expected share of wrong labels among the accepted at `target_error`, or None.

    A pool row's conformal p-value against the W wrong rows is p = (1 + #{H_w <= H}) / (W + 1) (Conformal Labeling,
    arXiv 2510.14581). Benjamini-Hochberg at target_error / pi accepts every row up to the largest H with
    p pi R <= target_error #{H_r <= H}, where pi = (W + 1) / (D + 1) estimates the share of wrong rows. pi keeps the
    guarantee: p pi = (1 + #{H_w <= H}) / (D + 1) is itself the rank of H among all D rows with the right ones put at
    infinity, a valid p-value of "this row is wrong" without any estimate (the argument of conformal selection, Jin and
    Candes 2023, arXiv 2210.01408). Without pi 10% of a pool with 67% right is accepted, with pi 46% (error 0.1,
    D = 2,000), and the error stays within the target. It is an expectation over slices and pools, in which
    accepting nothing counts as no error; in one run the share may be above it. Ties with tau are all accepted.
    ValueError: an impossible target, more wrong rows than `num_dev` (D, rows with a confidence).
    """
    if not 0 < target_error < 1:
        raise ValueError(f"target_error must be between 0 and 1, not {target_error}")
    if len(wrong_W) > num_dev:
        raise ValueError(f"{len(wrong_W)} wrong rows in a slice of {num_dev}")
    sorted_R = np.sort(np.asarray(pool_R, dtype=np.float32))
    accepted_R = np.searchsorted(sorted_R, sorted_R, side="right")
    wrong_R = np.searchsorted(np.sort(np.asarray(wrong_W, dtype=np.float32)), sorted_R, side="right")
    passing = np.flatnonzero((1 + wrong_R) * sorted_R.size <= target_error * (num_dev + 1) * accepted_R)
    return float(sorted_R[passing[-1]]) if passing.size else None


def _check(target: float, level: float) -> None:
    for name, value in (("target", target), ("level", level)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must be between 0 and 1, not {value}")
