"""Drivers of one run, one after the other: `semievol run` as a process of its own that joins a cluster by address.

Invariant: the command is the same each time; only the cluster's address and the host that it claims to be on differ.
"""

import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos_cluster import ROOT, environment
from benchmarks.chaos_processes import descendants, kill, send

PATIENCE_SECONDS = 3.0
DUMP_SECONDS = 2.0


@dataclass
class Drive:
    """A run's folder and configuration, and the driver that works on it now."""

    folder: Path
    config: Path
    num_started: int = 0
    drivers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def root(self) -> Path:
        """The run directory."""
        return self.folder / "run"

    @property
    def now(self) -> subprocess.Popen[bytes]:
        """The driver that was started last."""
        return self.drivers[-1]

    def start(self, address: str) -> subprocess.Popen[bytes]:
        """Start the command (again), on a host of its own."""
        self.num_started += 1
        command = [sys.executable, "-m", "benchmarks.chaos_driver", f"host-{self.num_started}", f"{PATIENCE_SECONDS}"]
        command += ["run", str(self.config), "--run", str(self.root), "--address", address]
        with self._told(self.num_started).open("wb") as told:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, stdout=told, stderr=told
            )
        self.drivers.append(process)
        return process

    def told(self, process: subprocess.Popen[bytes]) -> str:
        """What a driver has printed."""
        return self._told(self.drivers.index(process) + 1).read_text(errors="replace")

    def num_leases(self) -> int:
        """How many drivers have ever held the run."""
        return len(list((self.root / "lease").glob("[0-9]*.json")))

    def dump(self) -> None:
        """Ask every living driver for its stacks; they stand in what it told."""
        for process in self.drivers:
            if process.poll() is None:
                send([process.pid], signal.SIGCONT)
                send([process.pid], signal.SIGUSR1)
        time.sleep(DUMP_SECONDS)

    def close(self) -> None:
        """Kill what still drives."""
        for process in self.drivers:
            if process.poll() is None:
                kill([*descendants(process.pid), process.pid])
                process.wait()

    def _told(self, number: int) -> Path:
        return self.folder / f"driver-{number}.txt"
