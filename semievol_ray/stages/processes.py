"""The processes below one process: found in /proc, and killed.

Invariant: the caller itself is never among them, and no process is killed that took over the number of another.
"""

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def descendants(pid: int) -> dict[int, str]:
    """What this process started, and what that did: process id -> when it began, in clock ticks since boot."""
    parents: dict[int, dict[int, str]] = {}
    if not Path("/proc/self/stat").exists():  # outside Linux
        return {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            with suppress(OSError, IndexError, ValueError):
                fields = _stat(int(entry.name))
                parents.setdefault(int(fields[1]), {})[int(entry.name)] = fields[19]
    found, look = dict[int, str](), [pid]
    while look:
        below = parents.get(look.pop(), {})
        found |= below
        look += below
    return found


def kill_all(processes: Mapping[int, str]) -> None:
    """Kill -9 the processes that still are those they were."""
    for pid, began in processes.items():
        with suppress(OSError, IndexError):
            if _stat(pid)[19] == began:
                os.kill(pid, signal.SIGKILL)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the state on; the name before it may hold blanks and brackets."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
