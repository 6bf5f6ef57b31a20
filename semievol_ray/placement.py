"""Cluster resources -> how many engine replicas, each on what; refuses what cannot be placed, with the arithmetic.

Invariant: what is returned can be scheduled at once on the cluster as it is.
"""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from semievol_ray.config import SpeedConfig
from semievol_ray.errors import PlacementError


@dataclass(frozen=True)
class Node:
    """One machine of a cluster."""

    num_cpus: float
    num_gpus: float


@dataclass(frozen=True)
class Resources:
    """What a cluster has, node by node: an engine or a training worker lies on one of them."""

    nodes: tuple[Node, ...]

    @property
    def num_gpus(self) -> float:
        """GPUs of all nodes."""
        return sum(node.num_gpus for node in self.nodes)

    def num_places(self, cpus: float, gpus: float) -> int:
        """How many holders of these CPUs and GPUs fit at once."""
        needs = [((node.num_cpus, cpus), (node.num_gpus, gpus)) for node in self.nodes]
        return sum(math.floor(min(has / need for has, need in pairs if need)) for pairs in needs)

    def largest_share(self, num: int) -> float:
        """The most whole CPUs (at least 1) of which `num` holders fit at once."""
        largest = math.floor(max((node.num_cpus for node in self.nodes), default=0))
        return float(next((cpus for cpus in range(largest, 0, -1) if self.num_places(cpus, 0) >= num), 1))


@dataclass(frozen=True)
class Replicas:
    """One engine group's pool: `num` actors, each with these CPUs, GPUs and threads."""

    num: int
    cpus_each: float
    gpus_each: float
    num_threads: int


def cluster_resources() -> Resources:
    """The resources of the Ray cluster this process is connected to."""
    import ray

    listed: Any = ray.nodes  # untyped in ray
    nodes: list[dict[str, Any]] = [n["Resources"] for n in listed() if n["Alive"]]
    return Resources(tuple(Node(n.get("CPU", 0.0), n.get("GPU", 0.0)) for n in nodes))


def place(speed: SpeedConfig, resources: Resources) -> Replicas:
    """Replicas for one engine group: one a GPU (or tensor-parallel set of GPUs), on a CPU cluster one a node.

    Raises PlacementError when the replicas asked for do not fit together, or not one does.
    """
    gpus = float(_parallel(speed)) if resources.num_gpus else 0.0
    asked = 1 if speed.num_replicas == "auto" else speed.num_replicas
    automatic = 1.0 if gpus else resources.largest_share(asked)
    cpus = automatic if speed.num_cpus_per_replica == "auto" else speed.num_cpus_per_replica
    most = _places(f"speed.num_replicas {speed.num_replicas}", asked, cpus, gpus, resources)
    return Replicas(most if speed.num_replicas == "auto" else asked, cpus, gpus, max(1, int(cpus)))


def place_training(speed: SpeedConfig, resources: Resources) -> tuple[float, float]:
    """CPUs and GPUs of each training worker; PlacementError when the workers do not fit."""
    workers = speed.num_train_workers
    gpus = 1.0 if resources.num_gpus else 0.0
    cpus = 1.0 if gpus else resources.largest_share(workers)
    _places(f"speed.num_train_workers {workers}", workers, cpus, gpus, resources)
    return cpus, gpus


def _places(setting: str, num: int, cpus: float, gpus: float, resources: Resources) -> int:
    """How many holders fit; PlacementError with the arithmetic when fewer than `num` do."""
    most = resources.num_places(cpus, gpus)
    if most < num:
        kinds = Counter(f"{node.num_cpus:g} CPUs and {node.num_gpus:g} GPUs" for node in resources.nodes)
        has = "; ".join(f"{count} of {kind}" for kind, count in kinds.items()) or "none"
        raise PlacementError(
            f"{setting} does not fit: {num} x ({cpus:g} CPUs, {gpus:g} GPUs), each on one node, and the cluster's "
            f"nodes are {has}: room for {most}. Lower the setting or add nodes."
        )
    return most


def _parallel(speed: SpeedConfig) -> int:
    return math.prod(int(speed.engine_kwargs.get(f"{k}_parallel_size", 1)) for k in ("tensor", "pipeline"))
