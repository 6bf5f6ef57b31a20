"""The pulse of one engine process, in a small file that a process beside it reads without asking it anything.

Invariant: a beat costs about a microsecond and only the engine's process writes; nothing but the standard library is
imported, for the reader has to stay small.
"""

import json
import mmap
import struct
import tempfile
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

Rows = tuple[int, int]
_LAYOUT = struct.Struct("=QQQ")


class Phase(IntEnum):
    """What an engine process is doing; one that has ended has told why."""

    STARTING = 0
    ANSWERING = 1
    LEAVING = 2
    ENDED = 3


@dataclass(frozen=True)
class Ticket:
    """An attempt at a part under way; whoever sees it end notes how.

    `path` is the step that keeps the ledger, `source` the file whose rows are answered, `rows` [first, last) those
    tried alone.
    """

    path: str
    part: str
    attempt: int
    source: str
    rows: Rows | None = None


@dataclass(frozen=True)
class Pulse:
    """What was read: beats so far, the phase, and how many attempts are under way."""

    beats: int
    phase: Phase
    num_tickets: int


class Heartbeat:
    """Written by an engine's process: a beat for each step of the engine and each answer.

    It lies in a new `folder`, or in memory where nobody is to read it.
    """

    def __init__(self, *, read: bool) -> None:
        self.folder = tempfile.mkdtemp(prefix="semievol-pulse-") if read else None
        if self.folder is None:
            self._map = mmap.mmap(-1, _LAYOUT.size)
        else:
            Path(self.folder, "pulse").write_bytes(bytes(_LAYOUT.size))
            with Path(self.folder, "pulse").open("r+b") as file:
                self._map = mmap.mmap(file.fileno(), _LAYOUT.size)
        self._beats, self._phase = 0, Phase.STARTING
        self.tickets: tuple[Ticket, ...] = ()

    def beat(self) -> None:
        """Something moved; called from any thread."""
        self._beats += 1
        self._write()

    def enter(self, phase: Phase) -> None:
        self._phase = phase
        self.beat()

    def hold(self, ticket: Ticket) -> None:
        """An attempt is under way from now on."""
        self._list((*self.tickets, ticket))

    def drop(self, ticket: Ticket) -> None:
        self._list(tuple(t for t in self.tickets if t != ticket))

    def _list(self, tickets: tuple[Ticket, ...]) -> None:
        if self.folder is not None:
            temporary = Path(self.folder, "tickets.tmp")
            temporary.write_text(json.dumps([asdict(t) for t in tickets]), encoding="utf-8")
            temporary.replace(Path(self.folder, "tickets"))
        self.tickets = tickets
        self.beat()

    def _write(self) -> None:
        _LAYOUT.pack_into(self._map, 0, self._beats, self._phase, len(self.tickets))


def read_pulse(folder: str) -> Pulse:
    """The pulse as it is now."""
    beats, phase, num = _LAYOUT.unpack(Path(folder, "pulse").read_bytes())
    return Pulse(beats, Phase(phase), num)


def read_tickets(folder: str) -> list[Ticket]:
    """The attempts under way."""
    path = Path(folder, "tickets")
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return [Ticket(**{**t, "rows": tuple(t["rows"]) if t["rows"] else None}) for t in found]
