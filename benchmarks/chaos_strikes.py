"""The strikes themselves: what is done to actors, nodes, drivers and the head, and what must be so right afterwards.

Invariant: a strike leaves a cluster with its full number of nodes and a driver at work, unless the driver ended itself.
"""

import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.chaos_cluster import Cluster, Node
from benchmarks.chaos_drive import Drive
from benchmarks.chaos_files import committed, landed
from benchmarks.chaos_plan import Kind, Strike
from benchmarks.chaos_processes import kill, send

GRACE_SECONDS = 3.0
JOIN_SECONDS = 3.0
SETTLE_SECONDS = 1.0
END_SECONDS = 90.0
POLL_SECONDS = 0.05
EXIT_INTERRUPTED, EXIT_USER_ERROR = 130, 2
TAKEN_OVER = "was taken over by another driver"


class NotSoError(Exception):
    """Something that must hold after a strike does not; the message says what."""


@dataclass(frozen=True)
class Scene:
    """What there is to strike; `still_time` raises when the run's time is over."""

    cluster: Cluster
    drive: Drive
    still_time: Callable[[], None]


def strike(scene: Scene, how: Strike) -> bool:
    """Do it; False when there was nothing (any more) to strike. Raises NotSoError."""
    match how.kind:
        case Kind.ACTOR:
            return _actor(scene, how)
        case Kind.NOTICE:
            return _notice(scene, how)
        case Kind.NODE:
            return _node(scene, how)
        case Kind.HEAD:
            return _head(scene, how)
        case Kind.DRIVER:
            return _driver(scene)
        case Kind.TERMINATE:
            return _terminate(scene)
        case Kind.TAKEOVER:
            return _takeover(scene, how)


def _actor(scene: Scene, how: Strike) -> bool:
    found = _await_engines(scene)
    pids = sorted(pid for node in found for pid in scene.cluster.engines(node))
    return bool(pids) and bool(send([pids[int(how.choice * len(pids))]], signal.SIGKILL))


def _notice(scene: Scene, how: Strike) -> bool:
    nodes = _await_engines(scene)
    if not nodes or not scene.cluster.notify(node := nodes[int(how.choice * len(nodes))]):
        return False
    _wait(scene, GRACE_SECONDS)
    scene.cluster.kill_node(node)
    scene.cluster.add_node()
    return True


def _node(scene: Scene, how: Strike) -> bool:
    nodes = scene.cluster.nodes
    scene.cluster.kill_node(nodes[int(how.choice * len(nodes))])
    _wait(scene, JOIN_SECONDS * how.delay)
    scene.cluster.add_node()
    return True


def _head(scene: Scene, how: Strike) -> bool:
    """With `other` the driver was on the head's machine; without, it has to notice that nobody is there any more."""
    driver = scene.drive.now
    if how.other:
        kill([driver.pid])
    scene.cluster.kill()
    _await_end(scene, driver, "the driver of a cluster without a head")
    scene.cluster.start()
    scene.drive.start(scene.cluster.address)
    return True


def _driver(scene: Scene) -> bool:
    if not send([scene.drive.now.pid], signal.SIGKILL):
        return False
    scene.drive.now.wait()
    scene.drive.start(scene.cluster.address)
    return True


def _terminate(scene: Scene) -> bool:
    driver = scene.drive.now
    if not send([driver.pid], signal.SIGTERM):
        return False
    _await_end(scene, driver, "a driver that was sent SIGTERM")
    if driver.returncode == 0:  # it had nothing left to do
        return False
    _require(driver.returncode == EXIT_INTERRUPTED, f"SIGTERM: exit {driver.returncode}, not {EXIT_INTERRUPTED}")
    scene.drive.start(scene.cluster.address)
    return True


def _takeover(scene: Scene, how: Strike) -> bool:
    """With `other` the second driver stands still while the first wakes, so that whatever lands is the first one's."""
    first = scene.drive.now
    leases = scene.drive.num_leases()
    if leases < 1 or not send([first.pid], signal.SIGSTOP):
        return False
    second = scene.drive.start(scene.cluster.address)
    while scene.drive.num_leases() == leases and second.poll() is None:
        _wait(scene, POLL_SECONDS)
    _require(scene.drive.num_leases() > leases, f"no takeover: exit {second.poll()}: {scene.drive.told(second)}")
    if how.other:
        send([second.pid], signal.SIGSTOP)
    _wait(scene, SETTLE_SECONDS + (0 if how.other else 5 * how.delay))  # a commit that had passed its check may land
    before = committed(scene.drive.root)
    send([first.pid], signal.SIGCONT)
    _await_end(scene, first, "a driver that was taken over")
    late = landed(before, committed(scene.drive.root)) if how.other else 0
    send([second.pid], signal.SIGCONT)
    _require(late == 0, f"a driver that was taken over landed {late} parts")
    told = " ".join(scene.drive.told(first).split())
    refused = first.returncode == EXIT_USER_ERROR and TAKEN_OVER in told
    _require(refused, f"a driver that was taken over: exit {first.returncode}: {told[-600:]}")
    return True


def _await_engines(scene: Scene) -> list[Node]:
    """Nodes with a living engine, as soon as there are any; none when the driver ended before."""
    while scene.drive.now.poll() is None:
        if nodes := [node for node in scene.cluster.nodes if scene.cluster.engines(node)]:
            return nodes
        _wait(scene, POLL_SECONDS)
    return []


def _await_end(scene: Scene, driver: subprocess.Popen[bytes], who: str) -> None:
    deadline = time.monotonic() + END_SECONDS
    while driver.poll() is None:
        _wait(scene, POLL_SECONDS)
        if time.monotonic() > deadline:
            scene.drive.dump()
            raise NotSoError(f"{who} did not end within {END_SECONDS:g} s")


def _wait(scene: Scene, seconds: float) -> None:
    scene.still_time()
    time.sleep(seconds)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise NotSoError(message)
