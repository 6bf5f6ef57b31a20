"""What every node of a Ray cluster tells of itself, and whether what one of them writes is read by all.

Invariant: each node is asked by a task of its own that reserves nothing, and none is waited for beyond a limit.
"""

import contextlib
import math
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semievol_ray import storage
from semievol_ray.engines.references import fault
from semievol_ray.errors import StorageError
from semievol_ray.machine import Machine, look

DRIVER = "driver"
MOST_TOKENS = 32
"""A node reads the tokens of so many others; on larger clusters the rest are known by the driver's reading them."""


@dataclass(frozen=True)
class NodeReport:
    """One node as it told of itself; `machine` is None, and `silent` says why, when it did not.

    `unread` maps those whose token it could not read (or itself, that it could not write) to the reason; its clock is
    ahead of the driver's by at least `skew_seconds` (behind, when negative).
    """

    node: str
    num_cpus: float
    num_gpus: float
    machine: Machine | None
    silent: str | None = None
    unread: Mapping[str, str] | None = None
    skew_seconds: float = 0.0


def node_reports(root: str | None, seconds: float, *, joined: bool = True) -> tuple[NodeReport, ...]:
    """The driver's report, then one of each live node, within about 2 x `seconds`; `root` is a storage folder to try.

    A cluster of this one machine that was not `joined` by its address has one report, made in this process.
    """
    import ray

    listed: Any = ray.nodes  # untyped in ray
    nodes = [node for node in listed() if node["Alive"]]
    names = _names(nodes)
    with _token_folder(root) as folder:
        if len(nodes) == 1 and not joined:
            only = nodes[0]["NodeID"]
            return (_report(names[only], nodes[0]["Resources"], Told(look(_local(root))), _written(folder, only)),)
        own = _written(folder, DRIVER)
        told = _ask_all({n["NodeID"]: (_look_and_write, (_local(root), folder, n["NodeID"])) for n in nodes}, seconds)
        alive = [node for node, answer in told.items() if answer.silent is None]
        tokens = [DRIVER, *alive]
        read = _ask_all(dict.fromkeys(alive, (_unread, (folder, tokens[:MOST_TOKENS]))), seconds) if folder else {}
        own |= _unread(folder, tokens) if folder else {}
        if apart := [node for node, answer in read.items() if DRIVER in (answer.value or {})]:
            _ask_all(dict.fromkeys(apart, (_swept, (folder,))), seconds)  # on disks of their own
        renamed = {**names, DRIVER: DRIVER}
        reports = [
            _report(
                names[n["NodeID"]],
                n["Resources"],
                told[n["NodeID"]],
                {renamed[k]: reason for k, reason in _all_unread(n["NodeID"], told, read).items()},
            )
            for n in nodes
        ]
    first = NodeReport(DRIVER, 0, 0, look(_local(root)), None, {renamed[k]: reason for k, reason in own.items()})
    return (first, *reports)


def models_held(models: Mapping[str, Mapping[str, int]], names: Collection[str], seconds: float) -> dict[str, "Told"]:
    """What each of these nodes tells of the models, given as reference -> sizes (see `engines.references.fault`).

    A node that is late is not waited for; what it has not fetched it fetches when it loads.
    """
    import ray

    listed: Any = ray.nodes  # untyped in ray
    named = _names([node for node in listed() if node["Alive"]])
    asked = {node: (_faults, (models,)) for node, name in named.items() if name in names}
    return {named[node]: told for node, told in _ask_all(asked, seconds).items()}


def _faults(models: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Runs on a node: why it cannot load models, those that are fetched having been so."""
    return [text for reference, sizes in models.items() if (text := fault(reference, sizes))]


@dataclass(frozen=True)
class Told:
    """What came back from one node's task, or why nothing did, and at least how far its clock is ahead."""

    value: Any
    silent: str | None = None
    skew_seconds: float = 0.0


def _ask_all(asked: Mapping[str, tuple[Callable[..., Any], tuple[Any, ...]]], seconds: float) -> dict[str, Told]:
    """Each node's answer to its function; what it raised, or that it was late, stands in its place."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    sent, references = time.time(), {}
    for node, (function, arguments) in asked.items():
        there = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        task = ray.remote(_timed).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
        references[task.remote(function, *arguments)] = node
    told: dict[str, Told] = {}
    waiting, until = list(references), time.monotonic() + seconds
    while waiting and (left := until - time.monotonic()) > 0:
        done, waiting = ray.wait(waiting, num_returns=1, timeout=left)
        told |= {references[one]: _answer(one, sent) for one in done}
    for late in waiting:
        ray.cancel(late, force=True)
        told[references[late]] = Told(None, f"it did not answer in {seconds:g} seconds")
    return told


def _answer(reference: Any, sent: float) -> Told:
    import ray
    from ray.exceptions import RayError

    try:
        value, then = ray.get(reference)
    except RayError as error:
        return Told(None, (str(error).strip().splitlines() or [type(error).__name__])[-1])
    received = time.time()
    return Told(value, None, max(0.0, then - received) + min(0.0, then - sent))


def _timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    return function(*arguments), time.time()


def _look_and_write(root: str | None, folder: str | None, node: str) -> tuple[Machine, dict[str, str]]:
    """Runs on a node: its machine, and why it could not write its token."""
    return look(root), _written(folder, node)


def _written(folder: str | None, who: str) -> dict[str, str]:
    """Write one's token, read it again; whose token failed and why."""
    if folder is None:
        return {}
    try:
        storage.create(f"{folder}/{who}", who.encode())
    except StorageError as error:
        return {who: str(error)}
    return _unread(folder, [who])


def _unread(folder: str, tokens: Sequence[str]) -> dict[str, str]:
    """Runs on a node: whose tokens it cannot read, and why."""
    found = {}
    for who in tokens:
        try:
            if storage.read(f"{folder}/{who}") != who.encode():
                found[who] = "another text was read than was written"
        except StorageError as error:
            found[who] = str(error)
    return found


def _swept(folder: str) -> None:
    """Runs on a node: its own tokens gone, and the folder of runs that was made for them, where that is empty."""
    with contextlib.suppress(StorageError, OSError):
        storage.remove_folder(folder)
        if not storage.is_remote(folder):
            Path(folder).parent.rmdir()


def _all_unread(node: str, told: Mapping[str, Told], read: Mapping[str, Told]) -> dict[str, str]:
    written = told[node].value[1] if told[node].silent is None else {}
    later = read.get(node, Told({}))
    return {**(later.value or {}), **written, **({node: later.silent} if later.silent else {})}


def _report(name: str, resources: Mapping[str, float], told: Told, unread: Mapping[str, str]) -> NodeReport:
    machine = told.value[0] if isinstance(told.value, tuple) else told.value
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    skew = 0.0 if math.isclose(told.skew_seconds, 0.0) else round(told.skew_seconds, 3)
    return NodeReport(name, cpus, gpus, machine, told.silent, unread, skew)


def _names(nodes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A node's address, with the beginning of its id where several have the same."""
    addresses = [node["NodeManagerAddress"] for node in nodes]
    return {
        node["NodeID"]: address if addresses.count(address) == 1 else f"{address} ({node['NodeID'][:6]})"
        for node, address in zip(nodes, addresses, strict=True)
    }


@contextlib.contextmanager
def _token_folder(root: str | None) -> Iterator[str | None]:
    """A fresh folder for tokens below `root`, removed afterwards; None without a root."""
    if root is None:
        yield None
        return
    folder = f"{root}/.doctor-{uuid.uuid4().hex}"
    try:
        yield folder
    finally:
        with contextlib.suppress(StorageError):  # what cannot be removed could not be written, and was told
            storage.remove_folder(folder)


def _local(root: str | None) -> str | None:
    return None if root is None or storage.is_remote(root) else root
