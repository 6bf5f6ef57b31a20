"""The watchdog: a small process beside each engine, which sees that it stands still or has gone, and says so.

Invariant: it needs nothing of the engine's process but a pulse in a file, for that may be frozen, or stuck in C; and it
imports nothing heavy until something happened.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict

from semievol_ray.stages.heartbeat import Phase, Pulse, read_pulse, read_tickets
from semievol_ray.stages.patience import Patience, Watch
from semievol_ray.stages.processes import descendants, kill_all

SETTLE_SECONDS = 0.5
"""A machine that goes away takes this process along within so long after the engine's."""

LOOK_SECONDS = 20.0
"""How often the processes that an engine started are looked up, to be ended after it."""


def start_sidecar(watch: Watch) -> "subprocess.Popen[bytes]":
    """Begin to watch; the watchdog ends with the process it watches."""
    command = [sys.executable, "-m", "semievol_ray.stages.sidecar", json.dumps(asdict(watch))]
    path = os.pathsep.join(folder for folder in sys.path if folder)  # Ray may have brought the package with the job
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, start_new_session=True)


def follow(watch: Watch) -> None:
    """Until the engine's process is gone: compare its pulse with the last one, and end it when it stands still."""
    gone, every = _gone(watch.pid), min(1.0, watch.patience.stall_seconds / 5)
    last, moved = _pulse(watch), time.monotonic()
    below, looked = dict[int, str](), -LOOK_SECONDS
    while not gone(every):
        pulse, now = _pulse(watch), time.monotonic()
        if pulse is None or pulse != last or _is_idle(pulse):
            last, moved = pulse, now
        elif pulse.phase is Phase.STARTING and now - moved >= watch.patience.start_seconds:
            _tell_slow_start(watch)
            moved = now
        elif pulse.phase is not Phase.STARTING and now - moved >= watch.patience.stall_seconds:
            _end_stalled(watch, now - moved)
            return
        if now - looked >= LOOK_SECONDS:  # reads all of /proc
            below, looked = descendants(watch.pid), now
    _after_death(watch, last, below)


def _is_idle(pulse: Pulse) -> bool:
    return pulse.phase is not Phase.STARTING and pulse.num_tickets == 0


def _end_stalled(watch: Watch, seconds: float) -> None:
    """Write down where it stands, note the end of every attempt, and kill it: Ray starts another."""
    from semievol_ray.stages.postmortem import note_end

    try:
        note_end(watch, "engine_stalled", f"no progress for {seconds:.0f} s", read_tickets(watch.pulse))
    finally:
        below = descendants(watch.pid)
        with suppress(ProcessLookupError):
            os.kill(watch.pid, signal.SIGKILL)
        kill_all(below)


def _tell_slow_start(watch: Watch) -> None:
    from semievol_ray.stages.postmortem import note_end

    note_end(watch, "engine_slow_start", f"no engine after {watch.patience.start_seconds:.0f} s", [])


def _after_death(watch: Watch, last: Pulse | None, below: Mapping[int, str]) -> None:
    """An engine that did not say why it ended was killed, or crashed; what it leaves behind would hold its device."""
    kill_all(below)
    time.sleep(SETTLE_SECONDS)
    pulse = _pulse(watch) or last
    if pulse is None or pulse.phase is Phase.ENDED or _is_idle(pulse):
        return
    from semievol_ray.stages.postmortem import note_end

    seen = "its process was killed or crashed" + " while it started" * (pulse.phase is Phase.STARTING)
    note_end(watch, "engine_vanished", seen, read_tickets(watch.pulse))


def _pulse(watch: Watch) -> Pulse | None:
    with suppress(OSError):
        return read_pulse(watch.pulse)
    return None


def _gone(pid: int) -> Callable[[float], bool]:
    """A function that waits up to so many seconds and says whether the parent, `pid`, is gone."""

    def wait(seconds: float) -> bool:
        time.sleep(seconds)
        return os.getppid() != pid

    if not hasattr(os, "pidfd_open"):  # outside Linux
        return wait
    poll = select.poll()
    try:
        poll.register(os.pidfd_open(pid), select.POLLIN)
    except OSError:
        return wait
    return lambda seconds: bool(poll.poll(seconds * 1000))


def _main(told: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    fields = json.loads(told)
    try:
        follow(Watch(**{**fields, "patience": Patience(**fields["patience"])}))
    finally:
        shutil.rmtree(fields["pulse"], ignore_errors=True)


if __name__ == "__main__":
    _main(sys.argv[1])
