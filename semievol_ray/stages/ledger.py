"""The attempts at one part, and how each ended: which rows are suspected of ending engines.

Invariant: an attempt is noted before its work begins, so that what is known of a row survives every death.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from semievol_ray import storage
from semievol_ray.records import json_lines, now
from semievol_ray.runs import Step
from semievol_ray.stages.heartbeat import Rows, Ticket

End = Literal["done", "engine", "stalled", "vanished", "memory", "left"]
_EVIDENCE = frozenset({"engine", "stalled"})


@dataclass(frozen=True)
class Try:
    """One attempt: `rows` [first, last) tried alone, None for the whole part beside others.

    `end` is None where nobody was left to tell: a lost machine, or a driver that was killed.
    """

    fence: int | None
    rows: Rows | None
    end: End | None
    seen: str = ""


def begin(step: Step, part: str, source: str, rows: Rows | None = None, **fields: object) -> Ticket:
    """Note an attempt before its work."""
    noted = fields if rows is None else {**fields, "rows": list(rows)}
    return Ticket(step.path, part, step.begin_attempt(part, **noted), source, rows)


def end(ticket: Ticket, how: End, seen: str = "") -> None:
    """Note how an attempt ended."""
    line = {"attempt": ticket.attempt, "time": now(), "end": how, **({"seen": seen} if seen else {})}
    storage.append_line(_ends_path(ticket.path, ticket.part), json.dumps(line))


def tries(step: Step, part: str) -> list[Try]:
    """Every attempt at a part, oldest first."""
    ends = {line["attempt"]: line for line in json_lines(_ends_path(step.path, part))}
    found = []
    for noted in step.attempts(part):
        how, rows = ends.get(noted["attempt"], {}), noted.get("rows")
        span = (rows[0], rows[1]) if rows else None
        found.append(Try(noted["fence"], span, how.get("end"), how.get("seen", "")))
    return found


def suspicion(made: Sequence[Try], rows: Rows | None, fence: int | None) -> float:
    """How many tries of these rows ended their engine, seen by the worker of driver `fence`.

    An engine's own error or a stall counts fully, whoever drove. A process that vanished counts only where the same
    driver went on, for a driver's end takes its engines along; an attempt of which nobody tells counts half, for a
    lost machine takes the teller along. Memory has its own remedy, and leaving is nobody's fault.
    """
    total = 0.0
    for index, one in enumerate(made):
        if one.rows != rows:
            continue
        went_on = one.fence == fence or any(later.fence == one.fence for later in made[index + 1 :])
        if one.end in _EVIDENCE:
            total += 1
        elif went_on and one.end in ("vanished", None):
            total += 1 if one.end else 0.5
    return total


def last_seen(made: Sequence[Try], rows: Rows) -> str:
    """What was seen when these rows last ended their engine."""
    seen = [one.seen for one in made if one.rows == rows and one.end not in ("done", "left", "memory")]
    return next((text for text in reversed(seen) if text), "its process ended, and nobody was left to tell why")


def _ends_path(path: str, part: str) -> str:
    return f"{path}/attempts/{part}.ends.jsonl"
