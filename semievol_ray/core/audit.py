"""What a round's confidences were worth: reliability, coverage, what another theta had kept, who agreed with whom.

Invariant: every figure is a count or a ratio of counts, bounded in size whatever the number of rows; a ratio with
nothing below the line is None. H is in nats, float32; smaller is surer.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semievol_ray.core.deciding import Coded
from semievol_ray.core.metrics import Interval
from semievol_ray.core.selection import num_kept

Floats = NDArray[np.float32]
Counts = NDArray[np.int64]

_PER_DECADE, _FIRST, _LAST = 8, -6, 1
EDGES: Floats = np.array(
    [10 ** (_FIRST + i / _PER_DECADE) for i in range((_LAST - _FIRST) * _PER_DECADE + 1)], dtype=np.float32
)
"""Ends of the confidence bins: eight a decade, as half of all H crowd near 0; one more bin lies on each side."""
NUM_BINS = len(EDGES) + 1
THETAS = tuple(percent / 100 for percent in range(10, 101, 10))
_NORMAL_95 = 1.959963984540054


@dataclass(frozen=True)
class BinRow:
    """A confidence bin [low, high) that holds judged rows; `coverage` and `precision_so_far` are over H < high.

    `high` is None for the last bin, which has no end.
    """

    low: float
    high: float | None
    rows: int
    right: int
    precision: Interval
    coverage: float
    precision_so_far: float


@dataclass(frozen=True)
class CurveBin:
    """A share of the judged rows by rank of H; `low` and `high` are its smallest and largest H, `probability` is the
    mean of exp(-H)."""

    low: float
    high: float
    median: float
    rows: int
    right: int
    precision: Interval
    probability: float


@dataclass(frozen=True)
class WhatIf:
    """What the percentile rule had kept at another theta; `gold` and `dev` are the precision of H <= tau there."""

    theta: float
    tau: float
    rows: int
    gold: Interval | None
    dev: Interval | None


@dataclass(frozen=True)
class Judged:
    """H of the rows whose answer is known to be right, and of those known to be wrong; any order."""

    right: Floats
    wrong: Floats

    @property
    def num_rows(self) -> int:
        return int(self.right.size + self.wrong.size)


@dataclass(frozen=True)
class LabelRow:
    """How often a label stands among the labels, the answered rows, the accepted ones, and the pool's gold answers."""

    label: str
    labeled: int
    answered: int
    accepted: int
    gold: int


def precision(right: int, rows: int) -> Interval | None:
    """The share that is right with its 95% Wilson interval; None without rows."""
    if rows == 0:
        return None
    share, z2 = right / rows, _NORMAL_95**2
    middle = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = _NORMAL_95 * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2)) / (1 + z2 / rows)
    low = 0.0 if right == 0 else middle - half
    return Interval(share, low, 1.0 if right == rows else middle + half)


def bin_counts(confidences_R: Floats) -> Counts:
    """How many values of H fall into each of the NUM_BINS bins; one on an edge belongs to the bin above it."""
    return np.bincount(np.searchsorted(EDGES, confidences_R, side="right"), minlength=NUM_BINS).astype(np.int64)


def bin_table(judged: Judged) -> list[BinRow]:
    """Precision and coverage of each bin that holds a judged row, surest first."""
    right_B, rows_B = bin_counts(judged.right), bin_counts(judged.right) + bin_counts(judged.wrong)
    lows = [0.0, *EDGES.tolist()]
    highs = [*EDGES.tolist(), None]
    so_far_B, right_so_far_B = np.cumsum(rows_B), np.cumsum(right_B)
    return [
        BinRow(
            low=lows[i],
            high=highs[i],
            rows=int(rows_B[i]),
            right=int(right_B[i]),
            precision=_known(precision(int(right_B[i]), int(rows_B[i]))),
            coverage=int(so_far_B[i]) / judged.num_rows,
            precision_so_far=int(right_so_far_B[i]) / int(so_far_B[i]),
        )
        for i in np.flatnonzero(rows_B)
    ]


def reliability_curve(judged: Judged, num_bins: int = 10) -> list[CurveBin]:
    """At most `num_bins` bins of equally many judged rows, surest first; rows with the same H share a bin."""
    if judged.num_rows == 0:
        return []
    values_R = np.concatenate([judged.right, judged.wrong])
    correct_R = np.arange(values_R.size) < judged.right.size
    ordered_R = np.sort(values_R)
    ends = np.unique([ordered_R[-(-values_R.size * i // num_bins) - 1] for i in range(1, num_bins + 1)])
    which_R = np.searchsorted(ends, values_R, side="left")
    return [_curve_bin(values_R[which_R == i], int(correct_R[which_R == i].sum())) for i in range(len(ends))]


def calibration_error(curve: Sequence[CurveBin]) -> float | None:
    """Expected calibration error of exp(-H) as the probability of being right, over the bins of the curve."""
    rows = sum(b.rows for b in curve)
    return sum(b.rows * abs(b.precision.value - b.probability) for b in curve) / rows if rows else None


def what_if(confidences_R: Floats, gold: Judged | None, dev: Judged | None) -> list[WhatIf]:
    """tau, the rows with H <= tau and their precision for theta = 10%, 20% .. 100%; nothing without a confidence."""
    ordered_R = np.sort(confidences_R)
    if ordered_R.size == 0:
        return []
    taus = [ordered_R[num_kept(theta, ordered_R.size) - 1] for theta in THETAS]
    kept = np.searchsorted(ordered_R, taus, side="right")
    known = [_precision_up_to(taus, judged) for judged in (gold, dev)]
    return [
        WhatIf(theta, float(taus[i]), int(kept[i]), known[0][i], known[1][i]) for i, theta in enumerate(THETAS)
    ]  # fmt: skip


def equal_pairs(a: Coded, b: Coded, equal: Callable[[str, str], bool]) -> NDArray[np.int8]:
    """Row by row 1 where both texts are equal, 0 where not, -1 where one is missing; each pair of texts is asked once.

    `equal` need not be symmetric or transitive; it is called with a text of `a` and then one of `b`.
    """
    found_R = np.full(len(a.codes), -1, dtype=np.int8)
    both_R = (a.codes >= 0) & (b.codes >= 0)
    pairs_P, which_R = np.unique(a.codes[both_R] * len(b.values) + b.codes[both_R], return_inverse=True)
    told = [equal(a.values[pair // len(b.values)], b.values[pair % len(b.values)]) for pair in pairs_P.tolist()]
    found_R[both_R] = np.array(told, dtype=np.int8)[which_R]
    return found_R


def agreement(answers: Sequence[Coded], equal: Callable[[str, str], bool]) -> Counts:
    """Counts_CC of rows where collaborators i and j are both readable and equal; the diagonal: readable at all."""
    counts_CC = np.zeros((len(answers), len(answers)), dtype=np.int64)
    for i, a in enumerate(answers):
        counts_CC[i, i] = int((a.codes >= 0).sum())
        for j in range(i + 1, len(answers)):
            same = equal_pairs(a, answers[j], lambda x, y: x == y or equal(x, y))
            counts_CC[i, j] = counts_CC[j, i] = int((same == 1).sum())
    return counts_CC


def label_balance(
    labeled: Mapping[str, int],
    answered: Mapping[str, int],
    accepted: Mapping[str, int],
    gold: Mapping[str, int],
    most: int = 40,
) -> list[LabelRow]:
    """A row per label in sorted order, of the `most` that are commonest among labels and answers."""
    weight = {label: labeled.get(label, 0) + answered.get(label, 0) for label in {*labeled, *answered, *gold}}
    kept = sorted(weight, key=lambda label: (-weight[label], label))[:most]
    return [
        LabelRow(i, labeled.get(i, 0), answered.get(i, 0), accepted.get(i, 0), gold.get(i, 0)) for i in sorted(kept)
    ]


def _precision_up_to(taus: Sequence[np.float32], judged: Judged | None) -> list[Interval | None]:
    if judged is None:
        return [None] * len(taus)
    right = np.searchsorted(np.sort(judged.right), taus, side="right")
    wrong = np.searchsorted(np.sort(judged.wrong), taus, side="right")
    return [precision(int(r), int(r + w)) for r, w in zip(right, wrong, strict=True)]


def _curve_bin(values_R: Floats, right: int) -> CurveBin:
    low, median, high = (float(np.quantile(values_R, q, method="lower")) for q in (0.0, 0.5, 1.0))
    probability = float(np.exp(-values_R.astype(np.float64)).mean())
    rows = int(values_R.size)
    return CurveBin(low, high, median, rows, right, _known(precision(right, rows)), probability)


def _known(interval: Interval | None) -> Interval:
    assert interval is not None
    return interval
