"""What the events of a run tell: answers and tokens of each step, the pace of the last minutes, and troubles.

Invariant: an event of a kind that is not known here is counted and shown, never an error.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from semievol_ray.sessions import engine_sessions, seconds_between

WINDOW_SECONDS = 300.0
ROUTINE = frozenset(
    ("run_started", "run_stopped", "preflight", "step_started", "step_resumed", "step_committed", "step_shared",
     "step_cleaned", "part_committed", "session_started", "session_ended", "configuration_changed")
)  # fmt: skip
"""Kinds of events that are no trouble."""
_TOLD_IN = ("seen", "reason", "error", "message", "first_error", "why", "what")
_FRAME = frozenset(("time", "kind", "fence"))
Event = Mapping[str, Any]


@dataclass(frozen=True)
class Pace:
    """Units a second over the last minutes.

    `prefix_hit_rate` is the share of prompt tokens that came from the engines' prefix caches; None where none is told.
    """

    rows_per_second: float
    tokens_per_second: float
    prompt_tokens_per_second: float
    prefix_hit_rate: float | None = None


@dataclass(frozen=True)
class Replica:
    """One engine's pace; `name` is Ray's actor id, `node` Ray's node id."""

    name: str
    node: str
    rows_per_second: float
    tokens_per_second: float
    median_outstanding: float


@dataclass(frozen=True)
class Trouble:
    """Events of one kind beyond the routine: how many, when the last was, and what it told."""

    kind: str
    num: int
    last_time: str
    last_reason: str


@dataclass(frozen=True)
class Activity:
    """A run's events in figures; what belongs to a session is empty, or None, when none is under way."""

    reports: Mapping[str, Mapping[str, Event]]
    pace: Pace | None
    by_step: Mapping[str, Pace]
    replicas: tuple[Replica, ...]
    troubles: tuple[Trouble, ...]
    last: Event | None


def activity(events: Sequence[Event]) -> Activity:
    """The figures of events, oldest first; a part that was reported twice counts once, as last told."""
    reports: dict[str, dict[str, Event]] = {}
    for event in events:
        if event.get("kind") == "part_committed":
            reports.setdefault(event["step"], {})[event["part"]] = event
    recent = _recent(events)
    seconds = _span_seconds(recent)
    return Activity(
        reports=reports,
        pace=_pace(recent, seconds) if recent else None,
        by_step={step: _pace(told, seconds) for step, told in _grouped(recent, "step").items()},
        replicas=tuple(_replica(name, told, seconds) for name, told in _grouped(recent, "replica").items()),
        troubles=_troubles(events),
        last=events[-1] if events else None,
    )


def total(reports: Iterable[Event], key: str) -> int:
    """The sum of one figure over reports of parts."""
    return sum(int(report.get(key) or 0) for report in reports)


def _recent(events: Sequence[Event]) -> list[Event]:
    """Reports of the WINDOW_SECONDS before the newest one, of the sessions that are under way; each part once."""
    working = [session for session in engine_sessions(events) if session.ended is None]
    reports = sorted((r for session in working for r in session.reports), key=lambda r: str(r["time"]), reverse=True)
    found: dict[tuple[str, str], Event] = {}
    since = _earlier(reports[0]["time"], WINDOW_SECONDS) if reports else ""
    for report in reports:
        if report["time"] >= since:
            found.setdefault((report["step"], report["part"]), report)
    return list(found.values())


def _earlier(time: str, seconds: float) -> str:
    return (datetime.fromisoformat(time) - timedelta(seconds=seconds)).isoformat(timespec="microseconds")


def _span_seconds(recent: Sequence[Event]) -> float:
    """From when the first of these parts was begun, or the window, to when the last was committed."""
    if not recent:
        return 0.0
    last = max(event["time"] for event in recent)
    begun = max(seconds_between(event["time"], last) + float(event.get("seconds") or 0) for event in recent)
    return max(min(begun, WINDOW_SECONDS), 1e-3)


def _pace(reports: Sequence[Event], seconds: float) -> Pace:
    rows, tokens, prompt = (total(reports, key) / seconds for key in ("num_rows", "num_tokens", "num_prompt_tokens"))
    return Pace(rows, tokens, prompt, hit_rate(reports))


def hit_rate(events: Iterable[Event]) -> float | None:
    """The share of prompt tokens that vLLM found in its prefix cache, in reports or sessions; None without any."""
    told = list(events)
    looked_up = total(told, "num_looked_up")
    return total(told, "num_found") / looked_up if looked_up else None


def _replica(name: str, reports: Sequence[Event], seconds: float) -> Replica:
    pace, last = _pace(reports, seconds), max(reports, key=lambda event: str(event["time"]))
    outstanding = float(last.get("median_outstanding") or 0)
    return Replica(name, str(last.get("node", "")), pace.rows_per_second, pace.tokens_per_second, outstanding)


def _grouped(reports: Sequence[Event], key: str) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = {}
    for report in reports:
        found.setdefault(str(report.get(key, "")), []).append(report)
    return dict(sorted(found.items()))


def _troubles(events: Sequence[Event]) -> tuple[Trouble, ...]:
    last: dict[str, Event] = {}
    num: dict[str, int] = {}
    for event in events:
        kind = str(event.get("kind"))
        if kind not in ROUTINE:
            last[kind], num[kind] = event, num.get(kind, 0) + 1
    return tuple(Trouble(kind, num[kind], str(of.get("time", "")), _reason(of)) for kind, of in sorted(last.items()))


def _reason(event: Event) -> str:
    """What an event says of its cause, whatever the field is called; else its plain fields."""
    told = next((str(event[key]) for key in _TOLD_IN if event.get(key)), "")
    if told:
        return told
    plain = {k: v for k, v in event.items() if k not in _FRAME and isinstance(v, str | int | float)}
    return ", ".join(f"{key} {value}" for key, value in plain.items())
