"""Which answered rows become pseudo-labels: the threshold tau and each row's decision.

Invariant: every row ends in exactly one `Decision`, and is accepted only if its H is at most tau (in float32).
"""

import math
from enum import StrEnum
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray


class Decision(StrEnum):
    """What became of an unlabeled row."""

    ACCEPTED = "accepted"
    UNCERTAIN = "uncertain"
    UNREADABLE = "unreadable"
    ENGINE_ERROR = "engine_error"


def num_kept(theta: float, num_answered: int) -> int:
    """ceil(theta * R), theta taken as the decimal it is written as: 0.1 of 30 rows is 3. ValueError outside (0, 1]."""
    if not 0 < theta <= 1:
        raise ValueError(f"theta must be above 0 and at most 1, not {theta}")
    return math.ceil(Fraction(str(theta)) * num_answered)


def threshold(confidences: NDArray[np.float32], theta: float) -> float:
    """tau, the ceil(theta R)-th smallest of the R values of H, no interpolation. ValueError: none, NaN, infinite."""
    values_R = _finite(confidences)
    position = num_kept(theta, values_R.size) - 1
    return float(np.partition(values_R, position)[position])


def decide(label: str | None, confidence: float | None, error: str | None, tau: float) -> tuple[Decision, str]:
    """A row's decision and a sentence that says why; ValueError when the confidence is not finite."""
    if error is not None:
        return Decision.ENGINE_ERROR, f"the engine could not answer: {error}"
    if label is None:
        return Decision.UNREADABLE, "no answer could be read"
    if confidence is None:
        return Decision.UNCERTAIN, "no confidence: the answer was cut off before its end"
    if not math.isfinite(confidence):
        raise ValueError(f"confidence {confidence} is not finite")
    kept = bool(np.float32(confidence) <= np.float32(tau))
    shown, shown_tau = _told_apart(confidence, tau)
    if kept:
        return Decision.ACCEPTED, f"confidence {shown} is at most tau {shown_tau}"
    return Decision.UNCERTAIN, f"confidence {shown} is above tau {shown_tau}"


def ties_excess(confidences: NDArray[np.float32], theta: float, tau: float) -> float:
    """The share of rows with H <= tau minus theta, in points of 100; large when ties at tau swallow the pool."""
    kept_share = float((_finite(confidences) <= np.float32(tau)).mean())
    return 100.0 * (kept_share - theta)


def _finite(confidences: NDArray[np.float32]) -> NDArray[np.float32]:
    values_R = np.asarray(confidences, dtype=np.float32)
    if values_R.size == 0:
        raise ValueError("no row has a confidence")
    if not np.isfinite(values_R).all():
        raise ValueError(f"{int((~np.isfinite(values_R)).sum())} of {values_R.size} confidences are not finite")
    return values_R


def _told_apart(a: float, b: float) -> tuple[str, str]:
    """Both numbers with as few decimals, at least three, as show which is larger."""
    shown = [(f"{a:.{digits}f}", f"{b:.{digits}f}") for digits in range(3, 13)]
    return next((pair for pair in shown if pair[0] != pair[1]), shown[0])
