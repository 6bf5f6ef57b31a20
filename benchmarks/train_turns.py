"""Arms that take turns, a step each: what their steps take on one machine at one time, and how they compare.

Invariant: only one arm works at a time, and a step of one is compared with the same step of another.
"""

import multiprocessing
import socket
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from semievol_ray.engines.finetune import FinetuneSpec

WAIT_SECONDS = 900.0


@dataclass(frozen=True)
class Arm:
    """What one arm did: seconds of its steps in order, by the clock and of its processor; their losses; its memory."""

    seconds: tuple[float, ...]
    cpu_seconds: tuple[float, ...]
    losses: tuple[float, ...]
    peak_mib: float
    gpu_bytes: int


def take_turns(
    work: Callable[..., None], specs: Mapping[str, FinetuneSpec], num_threads: int, folder: Path
) -> dict[str, Arm]:
    """Start `work(name, spec, num_threads, port, log, connection)` for every arm, and let each do one step in turn.

    An arm sends its processor's seconds before each step and waits for "go"; at its end it sends what it has to say.
    The arm that begins moves on with every step. Raises RuntimeError with the end of its log when an arm fails.
    """
    spawn = multiprocessing.get_context("spawn")
    names, connections, processes = list(specs), dict[str, Connection](), []
    try:
        for name, spec in specs.items():
            connections[name], theirs = spawn.Pipe()
            process = spawn.Process(
                target=work, args=(name, spec, num_threads, _free_port(), str(_log(folder, name)), theirs)
            )
            process.start()
            theirs.close()
            processes.append(process)
        return _steps({name: [_heard(connections[name], folder, name)] for name in names}, connections, folder)
    finally:
        for process in processes:
            process.join(timeout=30)
            process.kill()


def _steps(spent: dict[str, list[float]], connections: Mapping[str, Connection], folder: Path) -> dict[str, Arm]:
    """Let the arms step in turn until all have ended; `spent` holds what each said of its processor before it began."""
    names = list(spent)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    ended: dict[str, dict[str, Any]] = {}
    turn = 0
    while len(ended) < len(names):
        for offset in range(len(names)):
            name = names[(turn + offset) % len(names)]
            if name in ended:
                continue
            began = time.perf_counter()
            connections[name].send("go")
            said = _heard(connections[name], folder, name)
            if isinstance(said, dict):
                ended[name] = said
            else:
                seconds[name].append(time.perf_counter() - began)
                spent[name].append(said)
                print(f"step {turn + 1}, {name}: {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
        turn += 1
    return {name: _arm(seconds[name], spent[name], ended[name]) for name in names}


def _arm(seconds: Sequence[float], spent: Sequence[float], said: Mapping[str, Any]) -> Arm:
    cpu_seconds = tuple(after - before for before, after in pairwise(spent))
    return Arm(tuple(seconds), cpu_seconds, tuple(said["losses"]), said["peak_mib"], said["gpu_bytes"])


def ratios(of: Sequence[float], to: Sequence[float], skip: int = 1) -> list[float]:
    """How many times as fast the steps `of` were as the same steps `to`; the first `skip` warm up and do not count."""
    return [theirs / mine for mine, theirs in zip(of[skip:], to[skip:], strict=True)]


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, and the quartiles around it; the median thrice of fewer than two values."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


def _heard(connection: Connection, folder: Path, name: str) -> Any:
    try:
        if connection.poll(WAIT_SECONDS):
            return connection.recv()
        reason = f"said nothing for {WAIT_SECONDS:.0f} s"
    except EOFError:
        reason = "ended"
    raise RuntimeError(f"the arm {name!r} {reason}: {_log(folder, name).read_text(errors='replace')[-2000:]}")


def _log(folder: Path, name: str) -> Path:
    return folder / f"{''.join(c if c.isalnum() else '-' for c in name)}.log"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
