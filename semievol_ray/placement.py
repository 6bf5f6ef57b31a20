"""Cluster resources -> how many engine replicas, each on what; refuses what cannot be placed, with the arithmetic.

Invariant: what is returned can be scheduled at once on the cluster as it is.
"""

import math
from dataclasses import dataclass
from typing import Any

from semievol_ray.config import SpeedConfig
from semievol_ray.errors import PlacementError


@dataclass(frozen=True)
class Resources:
    """What a cluster has: CPUs and GPUs in total and on its largest node."""

    num_cpus: float
    num_gpus: float
    largest_cpus: float
    largest_gpus: float


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

    nodes: list[dict[str, Any]] = [n["Resources"] for n in ray.nodes() if n["Alive"]]
    cpus = [n.get("CPU", 0.0) for n in nodes]
    gpus = [n.get("GPU", 0.0) for n in nodes]
    return Resources(sum(cpus), sum(gpus), max(cpus, default=0.0), max(gpus, default=0.0))


def place(speed: SpeedConfig, resources: Resources) -> Replicas:
    """Replicas for one engine group: one a GPU (or tensor-parallel set of GPUs), on a CPU cluster one a node.

    Raises PlacementError when one replica fits on no node or the replicas asked for do not fit together.
    """
    if resources.num_gpus:
        gpus = float(_parallel(speed))
        most = math.floor(resources.num_gpus / gpus)
        cpus = 1.0 if speed.num_cpus_per_replica == "auto" else speed.num_cpus_per_replica
        _refuse_unless(gpus <= resources.largest_gpus, f"needs {gpus:g} GPUs on one node", resources.largest_gpus, "GPUs")
    else:
        gpus = 0.0
        cpus = resources.largest_cpus if speed.num_cpus_per_replica == "auto" else speed.num_cpus_per_replica
        if speed.num_cpus_per_replica == "auto" and speed.num_replicas != "auto":
            cpus = max(1.0, math.floor(resources.num_cpus / speed.num_replicas))
            cpus = min(cpus, resources.largest_cpus)
        most = math.floor(resources.num_cpus / cpus)
    _refuse_unless(cpus <= resources.largest_cpus, f"needs {cpus:g} CPUs on one node", resources.largest_cpus, "CPUs")
    num = most if speed.num_replicas == "auto" else speed.num_replicas
    if num > most:
        raise PlacementError(
            f"speed.num_replicas {num} x ({cpus:g} CPUs, {gpus:g} GPUs) does not fit: the cluster has "
            f"{resources.num_cpus:g} CPUs and {resources.num_gpus:g} GPUs, enough for {most}"
        )
    return Replicas(max(num, 1), cpus, gpus, max(1, int(cpus)))


def place_training(speed: SpeedConfig, resources: Resources) -> tuple[float, float]:
    """CPUs and GPUs of each training worker; PlacementError when the workers do not fit."""
    workers = speed.num_train_workers
    if resources.num_gpus:
        _refuse_unless(
            workers <= resources.num_gpus, f"speed.num_train_workers {workers} needs {workers} GPUs", resources.num_gpus, "GPUs"
        )
        return 1.0, 1.0
    _refuse_unless(
        workers <= resources.num_cpus, f"speed.num_train_workers {workers} needs {workers} CPUs", resources.num_cpus, "CPUs"
    )
    return float(max(1, math.floor(resources.num_cpus / workers))), 0.0


def _parallel(speed: SpeedConfig) -> int:
    return math.prod(int(speed.engine_kwargs.get(f"{k}_parallel_size", 1)) for k in ("tensor", "pipeline"))


def _refuse_unless(fits: bool, need: str, has: float, what: str) -> None:
    if not fits:
        raise PlacementError(f"{need}; the cluster offers {has:g} {what}. Lower the setting or add nodes.")
