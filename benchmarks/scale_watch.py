"""A measured child process: what it says of its phases, and the processor seconds and memory of all it started.

Invariant: figures come from outside the measured process, so that measuring is no part of them.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

SAMPLE_SECONDS = 0.5
KINDS = ("driver", "worker", "ray")
"""The process itself; Ray's workers and actors; Ray's own processes: raylet, head service, agents."""


@dataclass
class Watched:
    """Samples of one process: (moment, processor seconds, resident bytes), oldest first."""

    kind: str
    samples: list[tuple[float, float, int]] = field(default_factory=list)

    def cpu_at(self, moment: float) -> float:
        """Processor seconds spent until a moment, by the last sample before it."""
        return max((cpu for at, cpu, _ in self.samples if at <= moment), default=0.0)


@dataclass(frozen=True)
class Measured:
    """A child that ended: its phases in order, name -> (begin, end, what it said), and its processes."""

    phases: Mapping[str, tuple[float, float, Mapping[str, Any]]]
    processes: Mapping[int, Watched]
    seconds: float

    def wall(self, phase: str) -> float:
        """Seconds a phase took."""
        begin, end, _ = self.phases[phase]
        return end - begin

    def said(self, phase: str) -> Mapping[str, Any]:
        """What the child said at the end of a phase."""
        return self.phases[phase][2]

    def cpu(self, kind: str, phase: str) -> float:
        """Processor seconds of one kind of process in a phase; a process that ends loses its last half second."""
        begin, end, _ = self.phases[phase]
        of_kind = [p for p in self.processes.values() if p.kind == kind]
        return sum(p.cpu_at(end) - p.cpu_at(begin) for p in of_kind)

    def peak_mib(self, kind: str, phase: str | None = None) -> float:
        """The largest resident size of one process of a kind, in MiB; 0 when there was none."""
        begin, end = self.phases[phase][:2] if phase else (0.0, float("inf"))
        samples = [sample for p in self.processes.values() if p.kind == kind for sample in p.samples]
        return max((rss for at, _, rss in samples if begin <= at <= end), default=0) / 2**20


def peak_sum_mib(processes: Sequence[Watched]) -> float:
    """The largest resident size of all processes together, in MiB; shared pages count once for each that has them."""
    held: dict[int, int] = {}
    most = 0
    told = [(at, n, rss) for n, p in enumerate(processes) for at, _, rss in p.samples]
    ends = [(p.samples[-1][0] + 2 * SAMPLE_SECONDS, n, 0) for n, p in enumerate(processes) if p.samples]
    for _, n, rss in sorted([*told, *ends]):
        held[n] = rss
        most = max(most, sum(held.values()))
    return most / 2**20


def measured(
    kind: str,
    settings: Mapping[str, Any],
    folder: Path,
    stop: Callable[[], bool] = lambda: False,
    module: str = "benchmarks.scale_child",
) -> Measured:
    """Run `module KIND` to its end and watch it; `stop()` true kills it.

    Raises RuntimeError with the end of what it printed when it fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    events, log = folder / "phases.jsonl", folder / "child.log"
    events.unlink(missing_ok=True)
    command = [sys.executable, "-m", module, kind, json.dumps(dict(settings)), str(events)]
    began = time.monotonic()
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out) as child:
        processes: dict[int, Watched] = {}
        ended = threading.Event()
        sampler = threading.Thread(target=_sample, args=(child.pid, processes, ended), daemon=True)
        sampler.start()
        killed = False
        while child.poll() is None:
            if stop():
                child.kill()
                killed = True
                break
            time.sleep(0.05)
        code = child.wait()
        ended.set()
        sampler.join()
    if code and not killed:
        tail = "\n".join(log.read_text().split("\n")[-30:])
        raise RuntimeError(f"{' '.join(command[2:4])} ended with {code}:\n{tail}")
    return Measured(_phases(events), processes, time.monotonic() - began)


def _phases(events: Path) -> dict[str, tuple[float, float, Mapping[str, Any]]]:
    lines = events.read_text().splitlines() if events.exists() else []
    return {line["phase"]: (line["begin"], line["end"], line["said"]) for line in map(json.loads, lines)}


def _sample(pid: int, processes: dict[int, Watched], ended: threading.Event) -> None:
    root = psutil.Process(pid)
    while not ended.is_set():
        try:
            tree = [root, *root.children(recursive=True)]
        except psutil.Error:
            tree = []
        for process in tree:
            try:
                seen = processes.setdefault(process.pid, Watched(_kind(process, pid)))
                with process.oneshot():
                    times, memory = process.cpu_times(), process.memory_info()
                seen.kind = _kind(process, pid)  # a worker has its name only once it works
                seen.samples.append((time.monotonic(), times.user + times.system, memory.rss))
            except psutil.Error:  # it ended meanwhile
                continue
        ended.wait(SAMPLE_SECONDS)


def _kind(process: psutil.Process, root: int) -> str:
    if process.pid == root:
        return "driver"
    command = " ".join(process.cmdline())
    return "worker" if command.startswith("ray::") or "default_worker.py" in command else "ray"
