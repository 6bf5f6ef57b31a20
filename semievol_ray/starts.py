"""What starting engines cost a run: loading weights, compiling, warming up, before the first answer.

Invariant: an engine is counted once, by the process that hosted it, if it answered a part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from semievol_ray import tables


@dataclass(frozen=True)
class Starts:
    """Starts of engines, their seconds together, and the seconds of the slowest."""

    num: int
    seconds: float
    slowest_seconds: float


def starts_shown(starts: Starts) -> str:
    """Starts as a person reads them: 3 in 1m34s, the slowest 43s."""
    slowest = f", the slowest {tables.seconds(starts.slowest_seconds)}" if starts.num > 1 else ""
    return f"{starts.num} in {tables.seconds(starts.seconds)}{slowest}"


def engine_starts(events: Sequence[Mapping[str, Any]]) -> Starts | None:
    """The starts that a run's events tell of; None where they tell of none."""
    of = {
        str(event.get("replica")): float(event["start_seconds"])
        for event in events
        if event.get("kind") == "part_committed" and event.get("start_seconds")
    }
    return Starts(len(of), sum(of.values()), max(of.values())) if of else None
