"""How much of what gold answers for the whole pool would bring a method brings without them.

Invariant: a share is given only where there is something to share: an oracle at least MIN_POINTS above the labels
alone, and surely above them. Elsewhere the ratio would divide noise by noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semievol_ray.core.metrics import Interval, paired_difference

MIN_POINTS = 3.0


@dataclass(frozen=True)
class HeadRoom:
    """accuracy(oracle) - accuracy(labels only), with the interval of the paired bootstrap."""

    gap: Interval

    @property
    def exists(self) -> bool:
        """Whether the gap is at least MIN_POINTS and its interval excludes 0."""
        return self.gap.value >= MIN_POINTS / 100 - 1e-9 and self.gap.low > 0


def head_room(
    oracle_N: NDArray[np.bool_], labels_only_N: NDArray[np.bool_], questions: Sequence[str] | None = None
) -> HeadRoom:
    """The head-room on N test rows, given whether each was answered right; pooled seeds stand one after the other.

    questions: which question each row asks; without them every row asks its own.
    """
    return HeadRoom(paired_difference(oracle_N, labels_only_N, questions))


def share_closed(room: HeadRoom, gain: float) -> float | None:
    """gain / gap as a fraction of 1, None without head-room; below 0 where the method loses, above 1 past the oracle.

    gain: accuracy of the method minus that of the labels alone, on the rows the gap was measured on.
    """
    return gain / room.gap.value if room.exists else None
