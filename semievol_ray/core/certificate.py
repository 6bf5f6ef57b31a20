"""What a model's own answers are worth beyond the run: a threshold that held-out labels certify, and a row's verdict.

Invariant: a certificate speaks of one model asked in one way; its threshold was chosen before any label was looked at,
among values of H that the held-out rows had no part in.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semievol_ray.core.calibration import (
    candidate_taus,
    fewest_certifying,
    largest_certifiable,
    precision_bound,
)
from semievol_ray.core.selection import FAILED, UNREADABLE, WITHOUT_CONFIDENCE, Cut, why, why_not


@dataclass(frozen=True)
class Certificate:
    """Of `num_rows` held-out answers with H <= tau, `num_correct` are right, so that the precision is at least
    `lower_bound` (one-sided Clopper-Pearson at `level`).

    `num_dev` counts the held-out rows with a confidence. Where `tau` is None no threshold qualified, and `reason` says
    why; where `target` is None too nothing could be looked at.
    """

    tau: float | None
    target: float | None
    level: float | None
    num_rows: int = 0
    num_correct: int = 0
    lower_bound: float = 0.0
    num_dev: int = 0
    reason: str = ""


def uncertified(reason: str) -> Certificate:
    """A certificate that says nothing of any row, and why."""
    return Certificate(None, None, None, reason=reason)


def certify(
    confidences_D: NDArray[np.float32],
    correct_D: NDArray[np.bool_],
    others_R: NDArray[np.float32],
    target: float,
    level: float,
    num_thresholds: int,
) -> Certificate:
    """The largest threshold whose precision the D held-out rows certify to be `target` at `level`.

    `others_R`: H of unlabeled rows that the same model answered in the same way; thresholds are taken from among them.
    """
    num_dev = int(confidences_D.size)
    none = Certificate(None, target, level, num_dev=num_dev)
    if num_dev < fewest_certifying(target, level):
        most = largest_certifiable(num_dev, level)
        return _because(
            none,
            f"{num_dev} answered dev rows certify a precision of at most {most:.3f} at {100 * level:g}% confidence; "
            f"{target:g} takes at least {fewest_certifying(target, level)}",
        )
    if not others_R.size:
        return _because(none, "no row of the pool has a confidence to take thresholds from")
    taus_T = candidate_taus(others_R, num_dev, num_thresholds, target, level)
    found = precision_bound(confidences_D, correct_D, taus_T, target, level)
    if found is None:
        return _because(
            none, f"no threshold reaches precision {target:g} at {100 * level:g}% confidence on {num_dev} dev rows"
        )
    return Certificate(found.tau, target, level, found.num_rows, found.num_correct, found.lower_bound, num_dev)


def verdict(
    certificate: Certificate, label: str | None, confidence: float | None, error: str | None
) -> tuple[bool | None, str]:
    """Whether a row's label is among those whose precision is certified, and a sentence that says why.

    None where the run certifies nothing. A row without a label or a confidence never passes.
    """
    if error is not None:
        return _unless_open(certificate), FAILED + error
    if label is None:
        return _unless_open(certificate), UNREADABLE
    if certificate.target is None:
        return None, certificate.reason
    if confidence is None:
        return False, WITHOUT_CONFIDENCE
    if certificate.tau is None:
        return False, certificate.reason
    cut = Cut(certificate.tau)
    if not cut.keeps(confidence, 0.0, ""):
        return False, why_not(confidence, 0.0, cut, "")
    return True, f"{why(confidence, cut, '')}: {evidence(certificate)}"


def evidence(certificate: Certificate) -> str:
    """What a threshold stands on, in words."""
    assert certificate.level is not None
    return (
        f"of {certificate.num_rows} dev rows up to there {certificate.num_correct} are right, a precision of at least "
        f"{certificate.lower_bound:.3f} at {100 * certificate.level:g}% confidence"
    )


def _unless_open(certificate: Certificate) -> bool | None:
    return None if certificate.target is None else False


def _because(certificate: Certificate, reason: str) -> Certificate:
    return Certificate(None, certificate.target, certificate.level, num_dev=certificate.num_dev, reason=reason)
