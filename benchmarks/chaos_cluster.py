"""A real Ray cluster of several raylets on this machine, as `ray start` makes it, to be killed in pieces.

Invariant: every process of it is a descendant of this one and writes below one folder; ports are its own.
"""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos_processes import descendants, kill, send, title

NUM_NODES, CPUS_PER_NODE = 2, 2
OBJECT_STORE_BYTES = 80_000_000
START_SECONDS = 180.0
PORTS = range(20_000, 32_000)
ENGINE = "EngineWorker"
ROOT = Path(__file__).parents[1]
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_worker_niceness": "0",
    "RAY_enable_worker_prestart": "false",
    "RAY_raylet_start_wait_time_s": "150",  # half a minute is too short where the cores are shared with others
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",  # a dead node is known to be dead after five of these
    "RAY_gcs_rpc_server_reconnect_timeout_s": "20",  # a driver without a head gives up after this
}


@dataclass(frozen=True)
class Node:
    """One worker raylet: the process that started it, and its folder."""

    process: subprocess.Popen[bytes]
    folder: Path


class Cluster:
    """A head without CPUs and NUM_NODES worker nodes, from `start` to `close`."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._head: subprocess.Popen[bytes] | None = None
        self._folder, self._num_started, self._port = Path(), 0, 0

    @property
    def address(self) -> str:
        """What drivers join by; another one after each `start`."""
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start head and nodes, and return once all have joined."""
        self._folder = Path(tempfile.mkdtemp(prefix="sev-", dir="/tmp"))  # the paths of sockets have to be short
        self._port, client, dashboard = _free_ports(3)
        ports = (f"--port={self._port}", f"--ray-client-server-port={client}", f"--dashboard-port={dashboard}")
        told = self._folder / "head"
        self._head = _ray_start(told, "--head", *ports, "--num-cpus=0", "--include-dashboard=false", "--no-monitor")
        _until_started(self._head, told)
        self.nodes = [self._node() for _ in range(NUM_NODES)]
        self._await_nodes()

    def add_node(self) -> None:
        """Another node, joined when this returns."""
        self.nodes.append(self._node())
        self._await_nodes()

    def kill_node(self, node: Node) -> None:
        """The machine is gone: its raylet, agents and workers by kill -9."""
        self.nodes.remove(node)
        kill([node.process.pid, *descendants(node.process.pid)])
        node.process.wait()

    def kill(self) -> None:
        """Head and nodes are gone at once; files of the cluster stay."""
        processes = [node.process for node in self.nodes] + ([self._head] if self._head else [])
        kill([pid for process in processes for pid in (process.pid, *descendants(process.pid))])
        for process in processes:
            process.wait()
        self.nodes, self._head = [], None

    def close(self) -> None:
        """Kill what runs and remove the cluster's files."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def keep_logs(self, folder: Path) -> None:
        """Copy the logs of head and nodes for whoever looks into a failure."""
        for logs in self._folder.glob("*/session_2*/logs"):
            shutil.copytree(logs, folder / logs.relative_to(self._folder).parts[0], dirs_exist_ok=True)

    def engines(self, node: Node) -> list[int]:
        """The engine actors' processes on a node, in no order."""
        return [pid for pid in descendants(node.process.pid) if ENGINE in title(pid)]

    def notify(self, node: Node) -> list[int]:
        """SIGTERM to every engine of a node, as before a spot machine is taken away; those reached."""
        return send(self.engines(node), signal.SIGTERM)

    def _node(self) -> Node:
        self._num_started += 1
        folder = self._folder / f"n{self._num_started}"
        return Node(_ray_start(folder, f"--address={self.address}", f"--num-cpus={CPUS_PER_NODE}"), folder)

    def _await_nodes(self) -> None:
        for node in self.nodes:
            _until_started(node.process, node.folder)


def environment(**more: str) -> dict[str, str]:
    """The environment of everything that chaos starts: this checkout first, no cluster of anyone else's."""
    kept = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    path = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH")]))
    return {**kept, "PYTHONPATH": path, **_ENVIRONMENT, **more}


def _ray_start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    folder.mkdir()
    command = [str(Path(sys.executable).parent / "ray"), "start", "--block", f"--temp-dir={folder}", *arguments]
    command += ["--include-log-monitor=false", "--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats"]
    command += [f"--object-store-memory={OBJECT_STORE_BYTES}", "--log-color=false"]
    with (folder / "said").open("wb") as said:
        return subprocess.Popen(command, env=environment(), stdin=subprocess.DEVNULL, stdout=said, stderr=said)


def _said(folder: Path) -> str:
    return (folder / "said").read_text(errors="replace")


def _until_started(process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while "Ray runtime started" not in _said(folder):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"ray start did not come up: {_said(folder)[-2000:]}")
        time.sleep(0.05)


def _free_ports(num: int) -> list[int]:
    """Ports that were free a moment ago, all different, where neither the kernel nor another Ray hands any out."""
    found: list[int] = []
    while len(found) < num:
        port = random.choice(PORTS)
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("", port))
            found += [] if port in found else [port]
    return found
