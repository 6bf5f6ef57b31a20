"""What can be seen from outside of a process that stands still, and how the attempts in its hands ended.

Invariant: nothing here waits for the process it looks at longer than a few seconds.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from semievol_ray import storage
from semievol_ray.errors import StorageError
from semievol_ray.stages.heartbeat import Ticket
from semievol_ray.stages.ledger import end
from semievol_ray.stages.notices import Board, tell
from semievol_ray.stages.patience import Watch
from semievol_ray.stages.processes import descendants

STACKS_SIGNAL = signal.SIGUSR2
"""On which an engine's process writes the stack of each of its threads to `<pulse>/stacks`."""
_NUM_IDS = 8
_REPORTS = {"engine_stalled": "stall", "engine_slow_start": "slow-start"}

Kind = Literal["engine_stalled", "engine_slow_start", "engine_vanished"]


def note_end(watch: Watch, kind: Kind, seen: str, tickets: Sequence[Ticket]) -> None:
    """Note how the attempts ended, tell the driver, and for a process that is still there write down where it stands.

    The report lies in the run's `logs/`. Storage that fails loses the note, not the watchdog.
    """
    board, told = Board(watch.folder, watch.fence), dict[str, str]()
    with suppress(StorageError):
        for ticket in tickets:
            end(ticket, "vanished" if kind == "engine_vanished" else "stalled", seen)
        if kind in _REPORTS:
            stamp = time.strftime("%Y%m%dT%H%M%S")
            told["report"] = f"{board.root}/logs/{_REPORTS[kind]}-{stamp}-{watch.replica[:8]}.txt"
            text = _report(watch.pid, seen, tickets, f"{watch.pulse}/stacks")
            storage.write(told["report"], text.encode())
        parts = [ticket.part for ticket in tickets]
        tell(board, kind, replica=watch.replica, node=watch.node, parts=parts, seen=seen, **told)


def _report(pid: int, seen: str, tickets: Sequence[Ticket], stacks: str) -> str:
    """States and stacks of the processes, the parts in hand, and the ids of their rows."""
    lines = [f"process {pid}: {seen}", "", "in hand:"]
    lines += [_shown(ticket) for ticket in tickets] or ["  nothing"]
    for each in (pid, *descendants(pid)):
        lines += ["", f"process {each} ({_state(each)}):", _stacks_of(each)]
    return "\n".join([*lines, "", "Python stacks, written by the process itself:", _own_stacks(pid, stacks), ""])


def _shown(ticket: Ticket) -> str:
    ids = _ids(ticket)
    some = ", ".join(ids[:_NUM_IDS]) + (f" ... {ids[-1]}" if len(ids) > _NUM_IDS else "")
    return f"  {ticket.part}, ledger {ticket.path}, attempt {ticket.attempt}, {len(ids)} rows: {some}"


def _ids(ticket: Ticket) -> list[str]:
    """The ids of an attempt's rows; none where their file cannot be read."""
    try:
        ids = pq.read_table(pa.BufferReader(storage.read(ticket.source)), columns=["id"]).column("id").to_pylist()
    except (StorageError, pa.ArrowException, OSError, KeyError):
        return []
    first, last = ticket.rows or (0, len(ids))
    return [str(i) for i in ids[first:last]]


def _state(pid: int) -> str:
    """Name and state of a process: `python, T (stopped)`."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        told = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        return f"{told.get('Name', '?')}, {told.get('State', '?')}"
    return "gone"


def _stacks_of(pid: int) -> str:
    """Stacks by py-spy, where it is installed and allowed."""
    spy = shutil.which("py-spy")
    if spy is None:
        return "  (install py-spy for its stacks)"
    command = [spy, "dump", "--nonblocking", "--pid", str(pid)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"  (py-spy: {error})"
    return done.stdout or f"  (py-spy: {done.stderr.strip()[:300]})"


def _own_stacks(pid: int, path: str) -> str:
    """Asks the process for its stacks and waits a second; a stopped process gives none."""
    with suppress(OSError):
        os.kill(pid, STACKS_SIGNAL)
        time.sleep(1.0)
        return Path(path).read_text(encoding="utf-8", errors="replace") or "  (none came)"
    return "  (none)"
