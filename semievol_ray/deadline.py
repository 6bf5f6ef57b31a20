"""The deadline of a driver: a moment at which it is to have stopped, with whole parts stored and the rest left.

Invariant: a value that travels to engines; it is compared with the clock of the machine that asks.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from semievol_ray.core.moments import moment, shown
from semievol_ray.errors import DeadlineReached, UserError
from semievol_ray.progress import duration

SLURM_END = "SLURM_JOB_END_TIME"
SLURM_LEAD_SECONDS, SLURM_LEAD_SHARE = 240.0, 0.2
"""How long before Slurm's limit a driver ends: sooner than the job script's notice, and at most a fifth of the time."""


@dataclass(frozen=True)
class Deadline:
    """Seconds since the epoch, and what it was taken from, in words."""

    at: float
    told: str

    def seconds_left(self) -> float:
        """Until then; negative after it."""
        return self.at - time.time()

    def require(self, what: str, seconds: float = 0.0) -> None:
        """DeadlineReached where `what` needs more seconds than are left."""
        left = self.seconds_left()
        if left > max(seconds, 0.0):
            return
        if left <= 0:
            raise DeadlineReached(f"the deadline, {self.told}, has come")
        raise DeadlineReached(
            f"{what} takes about {duration(seconds)}, and the deadline, {self.told}, is {duration(left)} away"
        )


def chosen(text: str | None, environment: Mapping[str, str], now: float) -> Deadline | None:
    """The deadline of --deadline or the one of the Slurm job around this process, whichever comes first, else None.

    Raises UserError for what is no moment, or has passed.
    """
    found = [each for each in (_written(text, now) if text else None, _of_slurm(environment, now)) if each]
    return min(found, key=lambda each: each.at, default=None)


def _of_slurm(environment: Mapping[str, str], now: float) -> Deadline | None:
    end = environment.get(SLURM_END, "")
    if not end.isdigit():
        return None
    at = float(end) - min(SLURM_LEAD_SECONDS, SLURM_LEAD_SHARE * max(0.0, float(end) - now))
    return Deadline(at, f"{shown(at, now)} (the time limit of the Slurm job is {shown(float(end), now)})")


def _written(text: str, now: float) -> Deadline:
    at = moment(text, now)
    if at is None:
        raise UserError(
            f"--deadline {text!r} is no moment: give a time of day (22:00), a date with one (2026-11-22T06:00, with a "
            "zone such as +00:00 where it is not local), or a span from now (+3h, +90m, +1h30m)."
        )
    if at <= now:
        raise UserError(f"--deadline {text} has passed: that was {shown(at, now)}.")
    return Deadline(at, shown(at, now))
