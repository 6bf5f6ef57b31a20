"""Linux processes that this one started, however deep: found, named, signalled, reaped.

Invariant: a process is only ever signalled while it is a descendant of this one, so that nothing of anyone else's on
the machine can be hit.
"""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """From now on a descendant whose parent dies becomes a child of this process instead of init's."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def descendants(pid: int) -> list[int]:
    """Living processes below one, parents before children; zombies are left out."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) and fields[0] not in "ZX":
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    below = list(children.get(pid, []))
    while below:
        found += below
        below = [child for parent in below for child in children.get(parent, [])]
    return found


def title(pid: int) -> str:
    """The command line of a process, as Ray rewrites it for its workers; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def send(pids: Iterable[int], number: signal.Signals) -> list[int]:
    """Signal those that are still descendants of this process; the ones that were reached."""
    ours, reached = set(descendants(os.getpid())), []
    for pid in pids:
        if pid in ours:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
                reached.append(pid)
    return reached


def kill(pids: Iterable[int]) -> None:
    """Kill -9, and return once all are gone."""
    pids = list(pids)
    send(pids, signal.SIGKILL)
    while any(is_alive(pid) for pid in pids):
        time.sleep(0.02)
    reap(pids)


def is_alive(pid: int) -> bool:
    """Whether a process runs, or stands still; a zombie does not."""
    fields = _stat(pid)
    return bool(fields) and fields[0] not in "ZX"


def reap(pids: Iterable[int]) -> None:
    """Take the exit codes of adopted children, so that no zombie is left of them."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _stat(pid: int) -> list[str]:
    """State, parent and so on from /proc/<pid>/stat; empty when there is no such process."""
    try:
        # the command name, field 2, may hold blanks and brackets: count from the last bracket
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
