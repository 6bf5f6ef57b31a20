"""The engine sessions of a run, read from its events: which steps, from when to when, with what parts.

Invariant: several may be at work at once; a part counts for the one that answers its step.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

ENDPOINT = "endpoint"
"""The word in the names of sessions that start no engine."""
Event = Mapping[str, Any]


@dataclass
class EngineSession:
    """One session, with the reports of its parts.

    ended: when its engines had handed in all parts; None while they work. Of one that was cut off it is the last event
    of its driver, and `is_whole` is False.
    """

    name: str
    jobs: Sequence[str]
    began: str
    ended: str | None = None
    is_whole: bool = False
    reports: list[Event] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """From its beginning to its end; 0 while it works."""
        return seconds_between(self.began, self.ended or self.began)


def engine_sessions(events: Iterable[Event]) -> list[EngineSession]:
    """All sessions, in the order in which they began."""
    found, working, previous = list[EngineSession](), dict[str, EngineSession](), ""
    for event in events:
        match event.get("kind"):
            case "run_started" | "run_stopped":
                for session in working.values():
                    session.ended = previous
                working.clear()
            case "session_started":
                session = EngineSession(event.get("session", ""), event.get("jobs", ()), event["time"])
                found.append(session)
                working[session.name] = session
            case "part_committed":
                for session in working.values():
                    if event["step"] in session.jobs:
                        session.reports.append(event)
            case "session_ended" if (name := event.get("session", "")) in working:
                session = working.pop(name)
                session.ended, session.is_whole = event["time"], True
        previous = event.get("time", previous)
    return found


def of_the_run(events: Iterable[Event]) -> Iterator[Event]:
    """The events of the attempts that did the run itself, without those of commands that used it later, as `label`."""
    is_own = True
    for event in events:
        if event.get("kind") == "run_started":
            is_own = event.get("command", RUN) == RUN
        if is_own:
            yield event


RUN = "run"


def seconds_between(before: str, after: str) -> float:
    """Seconds from one event's time to another's."""
    return (datetime.fromisoformat(after) - datetime.fromisoformat(before)).total_seconds()
