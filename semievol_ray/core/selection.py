"""Which answered rows become pseudo-labels: where each scope's cut lies, and each row's decision.

Invariant: every row ends in exactly one `Decision`, and is accepted only if every cut that applies keeps it (H is
compared in float32).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

FAILED = "the engine could not answer: "
UNREADABLE = "no answer could be read"
TIED = "the drafts were tied: no answer was given more often than every other"
WITHOUT_CONFIDENCE = "no confidence: the answer was cut off, or too long to be scored"


class Decision(StrEnum):
    """What became of an unlabeled row."""

    ACCEPTED = "accepted"
    UNCERTAIN = "uncertain"
    UNREADABLE = "unreadable"
    ENGINE_ERROR = "engine_error"


@dataclass(frozen=True)
class Cut:
    """The last row kept, in the order of H upwards, vote share downwards, id upwards; `Cut(tau)` keeps every tie."""

    tau: float
    vote_share: float = 0.0
    last_id: str | None = None

    def keeps(self, confidence: float, vote_share: float, row_id: str) -> bool:
        """Whether a row is not behind the cut; H is compared in float32."""
        value, tau = np.float32(confidence), np.float32(self.tau)
        if value != tau:
            return bool(value < tau)
        if vote_share != self.vote_share:
            return vote_share > self.vote_share
        return self.last_id is None or row_id <= self.last_id


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


def percentile_cuts(values: Mapping[str, NDArray[np.float32]], theta: float) -> dict[str, Cut]:
    """Each key's threshold over its own values (keys: answers, groups, or "" alone); one without values has no cut."""
    return {key: Cut(threshold(values_R, theta)) for key, values_R in values.items() if values_R.size}


def exact_cut(values: NDArray[np.float32], theta: float, tied: Sequence[tuple[float, str]]) -> Cut:
    """The cut that keeps exactly ceil(theta R) of the R values; `tied`: (vote share, id) of all rows with H = tau."""
    return cut_after(values, num_kept(theta, _finite(values).size), tied)


def cut_after(values: NDArray[np.float32], num_rows: int, tied: Sequence[tuple[float, str]]) -> Cut:
    """The cut that keeps exactly the first `num_rows`; `tied`: (vote share, id) of the rows with the last one's H.

    ValueError when `num_rows` is not between 1 and R, or `tied` is not as long as that H is frequent.
    """
    values_R = _finite(values)
    if not 1 <= num_rows <= values_R.size:
        raise ValueError(f"{num_rows} of {values_R.size} rows cannot be kept")
    tau = np.partition(values_R, num_rows - 1)[num_rows - 1]
    num_tied = int((values_R == tau).sum())
    if len(tied) != num_tied:
        raise ValueError(f"{len(tied)} ties given where {num_tied} rows have a confidence of {float(tau)}")
    room = num_rows - int((values_R < tau).sum())
    share, row_id = sorted(tied, key=lambda tie: (-tie[0], tie[1]))[room - 1]
    return Cut(float(tau), share, row_id)


def tied_room(values: NDArray[np.float32], theta: float) -> int:
    """How many of the rows with H = tau `exact_cut` keeps: at least one."""
    values_R = _finite(values)
    return num_kept(theta, values_R.size) - int((values_R < np.float32(threshold(values_R, theta))).sum())


def lowered(cuts: Mapping[str, Cut], ceiling: Mapping[str, Cut]) -> dict[str, Cut]:
    """Each key's stricter cut of both; a key that the ceiling does not have keeps its own."""
    return {key: _stricter(cut, ceiling.get(key, cut)) for key, cut in cuts.items()}


def quota_allowances(num_rows: Mapping[str, int], label_counts: Mapping[str, int], quota: float) -> dict[str, int]:
    """The most rows that each answer of `num_rows` may take: ceil(quota K (n_a + 1) / (N + C)).

    K: all rows of `num_rows`; n_a: labels of answer a; N: all labels; C: answers seen on either side (so that an
    answer without a label may take some). ValueError for a quota below 1, which would leave rows out of an equal mix.
    """
    if not quota >= 1:
        raise ValueError(f"quota must be at least 1, not {quota}")
    if not num_rows:
        return {}
    share = Fraction(str(quota)) * sum(num_rows.values())
    share /= sum(label_counts.values()) + len(num_rows.keys() | label_counts.keys())
    return {answer: math.ceil(share * (label_counts.get(answer, 0) + 1)) for answer in num_rows}


def quota_cuts(
    kept: Mapping[str, NDArray[np.float32]], label_counts: Mapping[str, int], quota: float
) -> dict[str, Cut]:
    """Each answer's cut to its `quota_allowances`; `kept`: confidences of the rows that passed the first cut.

    Ties that do not all fit are left out, all of them (`cut_after` breaks them). An answer without rows has no cut.
    """
    allowances = quota_allowances({answer: values.size for answer, values in kept.items()}, label_counts, quota)
    return {answer: _cut_within(values, allowances[answer]) for answer, values in kept.items() if values.size}


def decide(
    label: str | None,
    confidence: float | None,
    error: str | None,
    cuts: Sequence[tuple[str, Cut]],
    vote_share: float,
    row_id: str,
    *,
    tied: bool = False,
) -> tuple[Decision, str]:
    """A row's decision and a sentence that says why: every cut has to keep it, and its name is in the sentence.

    `tied`: why it has no label, where the vote is kept; otherwise no answer could be read.
    `cuts` pairs a name ("", "quota of plant", "group law") with a cut; a row without a confidence needs none.
    ValueError when the confidence is not finite, or no cut is given for a row that has one.
    """
    if error is not None:
        return Decision.ENGINE_ERROR, FAILED + error
    if label is None:
        return Decision.UNREADABLE, TIED if tied else UNREADABLE
    if confidence is None:
        return Decision.UNCERTAIN, WITHOUT_CONFIDENCE
    if not math.isfinite(confidence):
        raise ValueError(f"confidence {confidence} is not finite")
    if not cuts:
        raise ValueError(f"no cut for row {row_id}, which has a confidence")
    for name, cut in cuts:
        if not cut.keeps(confidence, vote_share, row_id):
            return Decision.UNCERTAIN, why_not(confidence, vote_share, cut, name)
    name, cut = cuts[0]
    return Decision.ACCEPTED, why(confidence, cut, name)


def why(confidence: float, cut: Cut, name: str) -> str:
    """The reason of a row that every cut keeps, by its first cut and that cut's name."""
    shown, shown_tau = _told_apart(confidence, cut.tau)
    return f"confidence {shown} is at most tau {shown_tau}" + named(name)


def why_not(confidence: float, vote_share: float, cut: Cut, name: str) -> str:
    """The reason of a row that is behind this cut."""
    return _behind(confidence, vote_share, cut) + named(name)


def named(name: str) -> str:
    """The end of a reason that says which cut it speaks of; nothing for the cut without a name."""
    return f" ({name})" if name else ""


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


def _stricter(a: Cut, b: Cut) -> Cut:
    """The cut that ends first; no id means behind every id."""
    ends = [(np.float32(c.tau), -c.vote_share, c.last_id is None, c.last_id or "") for c in (a, b)]
    return a if ends[0] <= ends[1] else b


def _cut_within(values: NDArray[np.float32], most: int) -> Cut:
    """The cut that keeps as many values as whole ties allow, and at most `most`."""
    sorted_R = np.sort(_finite(values))
    last = sorted_R[min(most, sorted_R.size) - 1]
    if most >= sorted_R.size or sorted_R[most] > last:
        return Cut(float(last))
    return Cut(float(last), 1.0, "")  # no row has a share above 1, or an id before "": no tie is kept


def _behind(confidence: float, vote_share: float, cut: Cut) -> str:
    shown, shown_tau = _told_apart(confidence, cut.tau)
    if np.float32(confidence) != np.float32(cut.tau):
        return f"confidence {shown} is above tau {shown_tau}"
    if cut.last_id == "":
        return f"confidence {shown} is tied at tau with more rows than fit"
    if vote_share != cut.vote_share:
        return f"confidence {shown} is tied at tau and behind in vote share, {vote_share:.2f} to {cut.vote_share:.2f}"
    return f"confidence {shown} is tied at tau and in vote share, and behind by id"


def _told_apart(a: float, b: float) -> tuple[str, str]:
    """Both numbers with as few decimals, at least three, as show which is larger."""
    shown = ((f"{a:.{digits}f}", f"{b:.{digits}f}") for digits in range(3, 13))
    return next((pair for pair in shown if pair[0] != pair[1]), (f"{a:.3f}", f"{b:.3f}"))
