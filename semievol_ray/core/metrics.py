"""Figures over judged answers: accuracy with its interval, a paired difference, per-class and per-decision tables.

Invariant: shares are fractions of 1; a figure without anything to count is None, never 0 or NaN.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semievol_ray.core.selection import Decision


@dataclass(frozen=True)
class Interval:
    """A figure and the ends of its confidence interval, in fractions of 1."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassRow:
    """One answer's figures: `support` gold rows; a ratio with nothing below the line is None."""

    label: str
    support: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class DecisionRow:
    """How many rows got a decision, and how many of the `judged` ones (those with gold) have a right label."""

    decision: Decision
    rows: int
    share: float | None
    judged: int
    precision: float | None


def bootstrap_interval(
    correct: NDArray[np.bool_],
    questions: Sequence[str] | None = None,
    *,
    seed: int = 0,
    num_resamples: int = 10_000,
    level: float = 0.95,
) -> tuple[float, float]:
    """(low, high) of the percentile bootstrap of accuracy; ValueError without rows. `questions`: see `_resampled`."""
    return _resampled(correct.astype(np.int64), questions, seed, num_resamples, level)


def paired_difference(
    a: NDArray[np.bool_],
    b: NDArray[np.bool_],
    questions: Sequence[str] | None = None,
    *,
    seed: int = 0,
    num_resamples: int = 10_000,
    level: float = 0.95,
) -> Interval:
    """accuracy(a) - accuracy(b) on the same rows in the same order, with the interval of the paired bootstrap.

    `questions`: see `_resampled`. ValueError without rows, or where one has not the rows of the other.
    """
    if len(a) != len(b):
        raise ValueError(f"a paired difference needs the same rows: {len(a)} and {len(b)}")
    differences_N = a.astype(np.int64) - b
    ends = _resampled(differences_N, questions, seed, num_resamples, level)
    return Interval(float(differences_N.mean()), *ends)


def class_table(gold: Sequence[str], predicted: Sequence[str | None]) -> list[ClassRow]:
    """A row per answer that occurs on either side, in sorted order; an unreadable prediction (None) is only a miss."""
    pairs = list(zip(gold, predicted, strict=True))
    support = Counter(gold)
    chosen = Counter(answer for answer in predicted if answer is not None)
    hits = Counter(answer for answer, guess in pairs if answer == guess)
    return [_class_row(label, support[label], chosen[label], hits[label]) for label in sorted(support | chosen)]


def decision_table(counts: Mapping[str, tuple[int, int, int]]) -> list[DecisionRow]:
    """A row per `Decision`, in its order, also where no row got it.

    `counts`: decision -> its rows, those of them with gold and label, and those of these that are right. ValueError for
    a name that is no decision.
    """
    known = {Decision(name): of_one for name, of_one in counts.items()}
    total = sum(rows for rows, _, _ in known.values())
    found = [(decision, *known.get(decision, (0, 0, 0))) for decision in Decision]
    return [
        DecisionRow(d, rows, _ratio(rows, total), judged, _ratio(right, judged)) for d, rows, judged, right in found
    ]


def _class_row(label: str, support: int, chosen: int, hits: int) -> ClassRow:
    return ClassRow(label, support, _ratio(hits, chosen), _ratio(hits, support), _ratio(2 * hits, chosen + support))


def _resampled(
    values_N: NDArray[np.int64], questions: Sequence[str] | None, seed: int, num_resamples: int, level: float
) -> tuple[float, float]:
    """(low, high) of the percentile bootstrap of a mean over N rows; ValueError without any.

    questions: which question each row asks, so that those of several seeds, which are not apart, are drawn together:
    questions are resampled, each with all its rows (a cluster bootstrap). Without them every row is its own. Questions
    with the same sum over as many rows are alike, and how often each kind is drawn is one multinomial.
    """
    rows_N = np.arange(_counted(len(values_N)))
    of_N = rows_N if questions is None else np.unique(questions, return_inverse=True)[1]
    sums_C, sizes_C = np.bincount(of_N, values_N).astype(np.int64), np.bincount(of_N)
    kinds_K2, nums_K = np.unique(np.column_stack([sums_C, sizes_C]), axis=0, return_counts=True)
    order_K = np.lexsort((-kinds_K2[:, 0], kinds_K2[:, 0] == 0))  # gains, losses, the rest: a draw depends on it
    sums_K, sizes_K = kinds_K2[order_K].T
    draws_BK = np.random.default_rng(seed).multinomial(len(sums_C), nums_K[order_K] / len(sums_C), num_resamples)
    return _percentiles(draws_BK @ sums_K / (draws_BK @ sizes_K), level)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _counted(num_rows: int) -> int:
    if num_rows == 0:
        raise ValueError("no rows to measure")
    return num_rows


def _percentiles(values: NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
