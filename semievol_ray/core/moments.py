"""Moments as a person writes them, 22:00 or +3h or 2026-11-22T06:00+00:00, as seconds since the epoch.

Invariant: nothing here reads a clock; what has no time zone is local time.
"""

import re
from datetime import datetime, time, timedelta

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_SPAN = re.compile(r"\+(?:\d+(?:\.\d+)?[dhms])+")
_CLOCK = re.compile(r"\d{1,2}:\d{2}(?::\d{2})?")


def moment(text: str, now: float) -> float | None:
    """Seconds since the epoch of a moment: the next 22:00 after `now`, so long after it, or a date; None if it is none.

    A date may lie before `now`; who asks has to look.
    """
    text = text.strip()
    if _SPAN.fullmatch(text):
        return now + sum(float(num) * _UNITS[unit] for num, unit in re.findall(r"([\d.]+)([dhms])", text))
    try:
        return _next(text, now) if _CLOCK.fullmatch(text) else datetime.fromisoformat(text).astimezone().timestamp()
    except ValueError:
        return None


def shown(at: float, now: float) -> str:
    """A moment as a person reads it: 22:00 today, else with its date; local time."""
    when, today = datetime.fromtimestamp(at), datetime.fromtimestamp(now)
    clock = f"{when:%H:%M:%S}" if when.second else f"{when:%H:%M}"
    return clock if when.date() == today.date() else f"{when:%Y-%m-%d} {clock}"


def _next(text: str, now: float) -> float:
    """The next moment at which a clock shows this time."""
    clock, today = time.fromisoformat(text.rjust(5, "0") if text.count(":") == 1 else text.rjust(8, "0")), _day(now)
    found = datetime.combine(today, clock)
    if found.timestamp() <= now:
        found = datetime.combine(today + timedelta(days=1), clock)
    return found.timestamp()


def _day(now: float) -> datetime:
    return datetime.fromtimestamp(now)
