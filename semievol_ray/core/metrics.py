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
    correct: NDArray[np.bool_], seed: int = 0, num_resamples: int = 10_000, level: float = 0.95
) -> tuple[float, float]:
    """(low, high) of the percentile bootstrap of accuracy; ValueError without rows.

    Resampling n rows with k right ones is a draw from Binomial(n, k/n), so that is what is drawn.
    """
    num_rows = _counted(len(correct))
    draws = np.random.default_rng(seed).binomial(num_rows, float(np.mean(correct)), num_resamples)
    return _percentiles(draws / num_rows, level)


def paired_difference(
    a: NDArray[np.bool_], b: NDArray[np.bool_], seed: int = 0, num_resamples: int = 10_000, level: float = 0.95
) -> Interval:
    """accuracy(a) - accuracy(b) on the same rows in the same order, with the interval of the paired bootstrap."""
    if len(a) != len(b):
        raise ValueError(f"a paired difference needs the same rows: {len(a)} and {len(b)}")
    num_rows = _counted(len(a))
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(~a & b))
    shares = np.array([only_a, only_b, num_rows - only_a - only_b]) / num_rows
    draws = np.random.default_rng(seed).multinomial(num_rows, shares, num_resamples)
    return Interval((only_a - only_b) / num_rows, *_percentiles((draws[:, 0] - draws[:, 1]) / num_rows, level))


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


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _counted(num_rows: int) -> int:
    if num_rows == 0:
        raise ValueError("no rows to measure")
    return num_rows


def _percentiles(values: NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
