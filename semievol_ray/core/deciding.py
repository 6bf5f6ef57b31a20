"""The decisions of many rows at once, column by column: what a part of a selection costs is its sentences.

Invariant: each row's decision and reason are those that `selection.decide` gives it by the same cuts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semievol_ray.core.selection import (
    FAILED,
    TIED,
    UNREADABLE,
    WITHOUT_CONFIDENCE,
    Cut,
    Decision,
    named,
    why,
    why_not,
)

DECISIONS = tuple(Decision)
"""Decisions by the code that stands for them."""
Bools = NDArray[np.bool_]
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Coded:
    """Texts as positions in a list of the different ones; -1 where there is none."""

    codes: Codes
    values: Sequence[str]


@dataclass(frozen=True)
class Rows:
    """What is decided by, entry i of each column for row i. `confidences` is H where `known`, anything elsewhere.

    `keys` are the rows' scope keys ("" for a global cut); `errors` is None for rows without one. `tied`: of rows
    without a label, whether a tied vote is why.
    """

    ids: Sequence[str]
    confidences: NDArray[np.float32]
    known: Bools
    shares: NDArray[np.float64]
    keys: Coded
    labels: Coded
    errors: Sequence[str | None]
    tied: Bools


@dataclass(frozen=True)
class Decided:
    """Each row's decision, as a position in DECISIONS, and the sentence that says why."""

    codes: NDArray[np.int8]
    reasons: list[str]


def decide_rows(
    rows: Rows, cuts: Mapping[str, Cut], quotas: Mapping[str, Cut], name_of: Callable[[str], str]
) -> Decided:
    """Decide every row by the cut of its scope key, named `name_of(key)`, and by its label's quota where there is one.

    A row with a confidence whose key has no cut is uncertain. ValueError when a confidence is not finite.
    """
    scope, quota = _Column(rows, rows.keys, cuts), _Column(rows, rows.labels, quotas)
    failed_R = np.fromiter((error is not None for error in rows.errors), bool, len(rows.errors))
    cutless_R = rows.known & ~scope.has_R
    judged_R = rows.known & scope.has_R & ~failed_R & (rows.labels.codes >= 0)
    _require_finite(rows.confidences[judged_R])
    behind_R, over_R = judged_R & ~scope.keeps_R, judged_R & scope.keeps_R & quota.has_R & ~quota.keeps_R
    accepted_R = judged_R & ~behind_R & ~over_R

    codes_R = np.full(len(rows.ids), DECISIONS.index(Decision.UNCERTAIN), dtype=np.int8)
    unreadable_R = ~failed_R & (rows.labels.codes < 0)
    codes_R[unreadable_R & ~cutless_R] = DECISIONS.index(Decision.UNREADABLE)
    codes_R[failed_R & ~cutless_R] = DECISIONS.index(Decision.ENGINE_ERROR)
    codes_R[accepted_R] = DECISIONS.index(Decision.ACCEPTED)

    reasons = [WITHOUT_CONFIDENCE] * len(rows.ids)
    for i in np.flatnonzero(unreadable_R):
        reasons[i] = TIED if rows.tied[i] else UNREADABLE
    for i in np.flatnonzero(failed_R):
        reasons[i] = f"{FAILED}{rows.errors[i]}"
    for i in np.flatnonzero(cutless_R):
        reasons[i] = no_tau(rows.keys.values[rows.keys.codes[i]])
    scope.tell(reasons, accepted_R, name_of, kept=True)
    scope.tell(reasons, behind_R, name_of, kept=False)
    quota.tell(reasons, over_R, quota_name, kept=False)
    return Decided(codes_R, reasons)


def no_tau(key: str) -> str:
    """The reason of a row with a confidence whose scope key no answered row of the pool has: a dev row."""
    return f"no answered row of the pool gives {key!r} a tau"


def quota_name(label: str) -> str:
    """What a reason calls a label's quota."""
    return f"quota of {label}"


class _Column:
    """One cut a row, by the row's code: whether it has one, and whether that keeps it."""

    def __init__(self, rows: Rows, coded: Coded, cuts: Mapping[str, Cut]) -> None:
        self._rows, self._codes_R, self._values = rows, coded.codes, coded.values
        self._cuts = [cuts.get(value) for value in coded.values]
        there = [cut or Cut(float("nan")) for cut in self._cuts] or [Cut(float("nan"))]
        taus_R = np.array([cut.tau for cut in there], dtype=np.float32)[self._codes_R]
        shares_R = np.array([cut.vote_share for cut in there])[self._codes_R]
        any_K = np.array([cut is not None for cut in self._cuts] or [False])
        self.has_R = any_K[self._codes_R] & (self._codes_R >= 0)
        self._tied_R = self.has_R & rows.known & (rows.confidences == taus_R)
        self.keeps_R = (rows.confidences < taus_R) | (self._tied_R & (rows.shares > shares_R))
        for i in np.flatnonzero(self._tied_R & (rows.shares == shares_R)):
            last_id = there[self._codes_R[i]].last_id
            self.keeps_R[i] = last_id is None or rows.ids[i] <= last_id

    def tell(self, reasons: list[str], which_R: Bools, name_of: Callable[[str], str], *, kept: bool) -> None:
        """Put the reasons of some rows, all kept by this cut or all behind it, into the list."""
        for code, cut in enumerate(self._cuts):
            if cut is None:
                continue
            at = np.flatnonzero(which_R & (self._codes_R == code)) if len(self._cuts) > 1 else np.flatnonzero(which_R)
            name, tau = name_of(self._values[code]), f"{cut.tau:.3f}"
            end = f" is {'at most' if kept else 'above'} tau {tau}{named(name)}"
            for i, h, tied in zip(
                at.tolist(), self._rows.confidences[at].tolist(), self._tied_R[at].tolist(), strict=True
            ):
                shown = f"{h:.3f}"
                if shown != tau and not tied:  # nearly all rows, and the one loop of a selection that costs
                    reasons[i] = f"confidence {shown}{end}"
                else:
                    reasons[i] = why(h, cut, name) if kept else why_not(h, float(self._rows.shares[i]), cut, name)


def _require_finite(confidences: NDArray[np.float32]) -> None:
    if not np.isfinite(confidences).all():
        wrong = confidences[~np.isfinite(confidences)][0]
        raise ValueError(f"confidence {wrong} is not finite")
