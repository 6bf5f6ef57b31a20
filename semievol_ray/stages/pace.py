"""What steps that come again took before in the same run: the start of an engine, a fine-tuning.

Invariant: where nothing was measured yet the answer is 0 or None, never a guess.
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


def training_seconds(records: Mapping[str, Event], num_examples: int) -> float | None:
    """What a fine-tuning on so many examples takes, as the largest one before it; None before the first."""
    known: list[tuple[int, float]] = []
    for name, record in records.items():
        examples = records.get(f"{name.rpartition('/')[0]}/examples", {}).get("committed")
        done = record.get("committed")
        if name.endswith("/train") and done and examples and examples["num_rows"]:
            known.append((examples["num_rows"], float(done["seconds"])))
    if not known:
        return None
    rows, seconds = max(known)
    return seconds / rows * num_examples
