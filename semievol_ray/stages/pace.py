"""What the start of an engine took before in the same run.

Invariant: where nothing was measured yet the answer is 0, never a guess.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

Event = Mapping[str, Any]


def engine_start_seconds(events: Iterable[Event]) -> float:
    """The shortest time from a session's start to its first part; 0 where none came yet."""
    began, found = None, list[float]()
    for event in events:
        if event["kind"] in ("session_started", "run_started"):
            began = event["time"] if event["kind"] == "session_started" else None
        elif event["kind"] == "part_committed" and began:
            found.append((datetime.fromisoformat(event["time"]) - datetime.fromisoformat(began)).total_seconds())
            began = None
    return min(found, default=0.0)
