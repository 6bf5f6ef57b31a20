"""What the start of an engine took before in the same run.

Invariant: where nothing was measured yet the answer is 0, never a guess.
"""

from collections.abc import Iterable

from semievol_ray.sessions import ENDPOINT, Event, engine_sessions, seconds_between


def engine_start_seconds(events: Iterable[Event]) -> float:
    """The shortest time from a session's start to its first part; 0 where none came yet. An endpoint is no start."""
    engines = [of for of in engine_sessions(events) if of.reports and ENDPOINT not in of.name.split()]
    return min((seconds_between(of.began, of.reports[0]["time"]) for of in engines), default=0.0)
