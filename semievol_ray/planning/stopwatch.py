"""A run's progress bars as measurements: when each began, its first and last advance, and its end.

Invariant: what is shown is what the progress it wraps shows.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from semievol_ray.progress import Bar, Progress


@dataclass
class Lap:
    """One bar: seconds on the monotonic clock, and what had been done at each advance."""

    began: float
    marks: list[tuple[float, float]] = field(default_factory=list)
    ended: float | None = None

    @property
    def unit_seconds(self) -> float | None:
        """Seconds of a unit between the first and the last advance; None before the second."""
        if len(self.marks) < 2 or self.marks[-1][1] <= self.marks[0][1]:
            return None
        (first, done), (last, all_done) = self.marks[0], self.marks[-1]
        return (last - first) / (all_done - done)


class Stopwatch(Progress):
    """A progress that keeps the laps of its bars by their names; a name that comes again is another attempt's."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown
        self.laps: dict[str, Lap] = {}

    def say(self, message: str) -> None:
        self._shown.say(message)

    @contextmanager
    def step(self, name: str, total: float, unit: str = "rows", done: float = 0) -> Iterator[Bar]:
        with self._shown.step(name, total, unit, done) as bar, self._lap(name, bar) as timed:
            yield timed

    @contextmanager
    def slow(self, name: str, total: float, unit: str = "parts") -> Iterator[Bar]:
        with self._shown.slow(name, total, unit) as bar, self._lap(name, bar) as timed:
            yield timed

    @contextmanager
    def _lap(self, name: str, bar: Bar) -> Iterator[Bar]:
        lap = self.laps[name] = Lap(time.monotonic())
        try:
            yield _TimedBar(bar, lap)
        finally:
            lap.ended = time.monotonic()


class _TimedBar:
    def __init__(self, bar: Bar, lap: Lap) -> None:
        self._bar, self._lap = bar, lap

    def advance(self, amount: float = 1, note: str = "") -> None:
        done = self._lap.marks[-1][1] if self._lap.marks else 0.0
        self._lap.marks.append((time.monotonic(), done + amount))
        self._bar.advance(amount, note)
