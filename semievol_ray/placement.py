"""Cluster resources -> how many engine replicas, each on what; refuses what cannot be placed, with the arithmetic.

Invariant: what is returned can be scheduled at once on the cluster as it is, unless `speed.autoscaling` says it grows.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from semievol_ray.config import ReplicaRange, SpeedConfig
from semievol_ray.engines.vllm import cpu_cache_bytes
from semievol_ray.errors import PlacementError

GPU_SHARE = 0.92
"""The share of a GPU's memory that vLLM takes when `gpu_memory_utilization` is not set."""

PARTS_AN_EMBEDDER = 8
"""Parts that make up for the start of another embedder, which takes seconds."""


@dataclass(frozen=True)
class Node:
    """One machine of a cluster; memory is that of the machine and of each GPU, 0 and empty where it is not known."""

    num_cpus: float
    num_gpus: float
    memory_bytes: int = 0
    gpu_bytes: tuple[int, ...] = ()
    name: str = ""


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
        return sum(places_on(node, cpus, gpus) for node in self.nodes)

    def largest_share(self, num: int) -> float:
        """The most whole CPUs (at least 1) of which `num` holders fit at once."""
        largest = math.floor(max((node.num_cpus for node in self.nodes), default=0))
        return float(next((cpus for cpus in range(largest, 0, -1) if self.num_places(cpus, 0) >= num), 1))


@dataclass(frozen=True)
class Replicas:
    """One engine group's pool: `num` actors at the start, each with these CPUs, GPUs, threads and Ray's `runtime_env`.

    The pool may shrink to `min_num` and grow to `max_num`; both are `num` unless the configuration gives a range.
    """

    num: int
    cpus_each: float
    gpus_each: float
    num_threads: int
    min_num: int = 0
    max_num: int = 0
    runtime_env: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "min_num", self.min_num or self.num)
        object.__setattr__(self, "max_num", self.max_num or self.num)


def places_on(node: Node, cpus: float, gpus: float) -> int:
    """How many holders of these CPUs and GPUs fit on one node at once."""
    pairs = ((node.num_cpus, cpus), (node.num_gpus, gpus))
    return math.floor(min(has / need for has, need in pairs if need))


def cluster_resources() -> Resources:
    """The resources of the Ray cluster this process is connected to."""
    import ray

    listed: Any = ray.nodes  # untyped in ray
    nodes: list[dict[str, Any]] = [n["Resources"] for n in listed() if n["Alive"]]
    return Resources(tuple(Node(n.get("CPU", 0.0), n.get("GPU", 0.0)) for n in nodes))


def standing(first: Resources, now: Resources) -> Resources:
    """What to place on: the cluster as it is now, where it grew; as it was first, for what went away comes back.

    It stays with or without GPUs, as the numbers of what was begun on it do.
    """
    if bool(first.num_gpus) != bool(now.num_gpus):
        return first
    return max(first, now, key=lambda found: (found.num_gpus, sum(node.num_cpus for node in found.nodes)))


def place(speed: SpeedConfig, resources: Resources) -> Replicas:
    """Replicas for one engine group: one a GPU (or tensor-parallel set of GPUs), on a CPU cluster one a node.

    A range starts with as many as fit. Raises PlacementError when the fewest replicas asked for do not fit together,
    unless the cluster grows by itself: then they are returned, to be waited for.
    """
    asked = speed.num_replicas
    fewest, cpus, gpus = _engine_needs(speed, resources)
    if (lack := engine_shortage(speed, resources)) and not speed.autoscaling:
        raise PlacementError(lack)
    fits = max(fewest, resources.num_places(cpus, gpus))
    threads, own = max(1, int(cpus)), speed.runtime_env.generate
    if isinstance(asked, ReplicaRange):
        return Replicas(min(asked.max, fits), cpus, gpus, threads, asked.min, asked.max, own)
    return Replicas(fits if asked == "auto" else asked, cpus, gpus, threads, runtime_env=own)


def with_work(speed: SpeedConfig, replicas: Replicas, most: int) -> Replicas:
    """As many of these replicas as have something to do, `most`; as many as the configuration asks for in any case."""
    most = max(most, _engine_needs(speed, Resources(()))[0])
    num, fewest, largest = (min(most, n) for n in (replicas.num, replicas.min_num, replicas.max_num))
    return replace(replicas, num=num, min_num=fewest, max_num=largest)


def place_embedding(resources: Resources, num_parts: int) -> Replicas:
    """Embedders for so many parts: one a GPU, without GPUs one a node with its CPUs; each has parts enough to start."""
    gpus = 1.0 if resources.num_gpus else 0.0
    num_nodes = sum(node.num_cpus >= 1 for node in resources.nodes)
    cpus = 1.0 if gpus else resources.largest_share(max(1, num_nodes))
    wanted = -(-num_parts // PARTS_AN_EMBEDDER)
    return Replicas(max(1, min(wanted, resources.num_places(cpus, gpus))), cpus, gpus, max(1, int(cpus)))


def place_training(speed: SpeedConfig, resources: Resources) -> tuple[float, float]:
    """CPUs and GPUs of each training worker; PlacementError when the workers do not fit and nothing grows."""
    if (lack := training_shortage(speed, resources)) and not speed.autoscaling:
        raise PlacementError(lack)
    return _training_needs(speed, resources)


def engine_shortage(speed: SpeedConfig, resources: Resources) -> str | None:
    """What is wanting for the fewest replicas of one engine group, with the arithmetic; None when they fit."""
    asked = speed.num_replicas
    fewest, cpus, gpus = _engine_needs(speed, resources)
    largest = max((node.num_gpus for node in resources.nodes), default=0)
    if 0 < largest < gpus:
        return (
            f"speed.engine_kwargs: an engine of {parallel_words(speed)} needs {gpus:g} GPUs on one node; the largest "
            f"has {largest:g}. Lower it, use a smaller or quantized model, or add a node with {gpus:g} GPUs."
        )
    written = f"min {asked.min}" if isinstance(asked, ReplicaRange) else str(asked)
    return _shortage(f"speed.num_replicas {written}", fewest, cpus, gpus, resources)


def training_shortage(speed: SpeedConfig, resources: Resources) -> str | None:
    """What is wanting for the training workers, with the arithmetic; None when they fit."""
    cpus, gpus = _training_needs(speed, resources)
    num = speed.num_train_workers
    return _shortage(f"speed.num_train_workers {num}", num, cpus, gpus, resources)


def engine_memory_shortage(speed: SpeedConfig, resources: Resources, weights: int, told: str) -> str | None:
    """Why an engine's weights (in bytes, `told` in words) fit no GPU share, or no node; None where nothing is known."""
    _, cpus, gpus = _engine_needs(speed, resources)
    if gpus:
        return _gpu_shortage(speed, resources, weights, told)
    replicas = place(speed.model_copy(update={"autoscaling": True}), resources)
    return _node_memory_shortage("engines", replicas.num, cpus, resources, weights, told)


def training_memory_shortage(speed: SpeedConfig, resources: Resources, weights: int, told: str) -> str | None:
    """Why the weights that each training worker holds fit no GPU, or no node; None where nothing is known."""
    cpus, gpus = _training_needs(speed, resources)
    workers = speed.num_train_workers
    each = weights // workers if speed.zero_stage == 3 else weights
    if not gpus:
        return _node_memory_shortage("training workers", workers, cpus, resources, each, told)
    smallest = min((size for node in resources.nodes for size in node.gpu_bytes), default=0)
    if not smallest or each <= smallest:
        return None
    return (
        f"fine-tuning {told}: each worker holds {gigabytes(each)} of weights, and the smallest GPU has "
        f"{gigabytes(smallest)}. Use speed.zero_stage: 3, which divides them by speed.num_train_workers, with at "
        f"least {-(-weights // smallest)} workers, or larger GPUs."
    )


def cache_shortage(
    speed: SpeedConfig, resources: Resources, weights: int, token_bytes: int, max_model_len: int, told: str
) -> str | None:
    """Why the cache of an engine holds no prompt of `max_model_len` tokens; None where it does or nothing is known."""
    given, size = speed.engine_kwargs.get("kv_cache_memory_bytes"), _size(speed, "tensor") * _size(speed, "pipeline")
    gpus = [gpu for node in resources.nodes for gpu in node.gpu_bytes]
    share = float(speed.engine_kwargs.get("gpu_memory_utilization", GPU_SHARE))
    needed = token_bytes * max_model_len / size
    if given is not None:
        budget, where = float(given), "speed.engine_kwargs.kv_cache_memory_bytes"
    elif resources.num_gpus:
        budget = min(gpus, default=0) * share - weights / size
        where = f"what the weights leave of {share:g} of the smallest GPU"
        if not gpus or budget <= 0:  # not known, or told with the weights
            return None
    else:
        budget, where = cpu_cache_bytes(), "an engine's cache on a CPU, unless kv_cache_memory_bytes is set,"
    if needed <= budget:
        return None
    return (
        f"{told}: the cache of one prompt of numerics.max_model_len {max_model_len} tokens needs {gigabytes(needed)}, "
        f"and {where} is {gigabytes(budget)}: room for {int(budget // (token_bytes / size))} tokens. Lower "
        f"numerics.max_model_len, or set speed.engine_kwargs.kv_cache_memory_bytes to {math.ceil(needed)} or more."
    )


def gigabytes(num_bytes: float) -> str:
    """Bytes as a person reads them: 16.1 GB (of 10^9 bytes)."""
    return f"{num_bytes / 1e9:.1f} GB"


def parallel_words(speed: SpeedConfig) -> str:
    """The parallel sizes that are set, as arithmetic: tensor_parallel_size 4 x pipeline_parallel_size 2."""
    sizes = {f"{kind}_parallel_size": _size(speed, kind) for kind in ("tensor", "pipeline")}
    return " x ".join(f"{name} {size}" for name, size in sizes.items() if size > 1) or "tensor_parallel_size 1"


def _engine_needs(speed: SpeedConfig, resources: Resources) -> tuple[int, float, float]:
    """The fewest engines that do, and the CPUs and GPUs of each."""
    asked = speed.num_replicas
    fewest = asked.min if isinstance(asked, ReplicaRange) else 1 if asked == "auto" else asked
    gpus = float(_size(speed, "tensor") * _size(speed, "pipeline")) if resources.num_gpus else 0.0
    most = asked.max if isinstance(asked, ReplicaRange) else fewest
    automatic = 1.0 if gpus else resources.largest_share(most)
    return fewest, automatic if speed.num_cpus_per_replica == "auto" else speed.num_cpus_per_replica, gpus


def _training_needs(speed: SpeedConfig, resources: Resources) -> tuple[float, float]:
    """CPUs and GPUs of each worker; one on a GPU needs more than one CPU only where AdamW's steps are offloaded."""
    if not resources.num_gpus:
        return resources.largest_share(speed.num_train_workers), 0.0
    hosts = [node for node in resources.nodes if node.num_gpus >= 1]
    if speed.offload == "none" or not hosts:
        return 1.0, 1.0
    together = min(node.num_cpus // min(node.num_gpus, speed.num_train_workers) for node in hosts)
    return max(1.0, float(together)), 1.0


def _shortage(setting: str, num: int, cpus: float, gpus: float, resources: Resources) -> str | None:
    most = resources.num_places(cpus, gpus)
    if most >= num:
        return None
    kinds = Counter(f"{node.num_cpus:g} CPUs and {node.num_gpus:g} GPUs" for node in resources.nodes)
    has = "; ".join(f"{count} of {kind}" for kind, count in kinds.items()) or "none"
    return (
        f"{setting} does not fit: {num} x ({cpus:g} CPUs, {gpus:g} GPUs), each on one node, and the cluster's "
        f"nodes are {has}: room for {most}. Lower the setting or add nodes; speed.autoscaling: true waits for nodes "
        "that the cluster adds by itself."
    )


def _gpu_shortage(speed: SpeedConfig, resources: Resources, weights: int, told: str) -> str | None:
    size = _size(speed, "tensor") * _size(speed, "pipeline")
    hosts = [node for node in resources.nodes if node.num_gpus >= size and node.gpu_bytes]
    smallest = min((num_bytes for node in hosts for num_bytes in node.gpu_bytes), default=0)
    share = float(speed.engine_kwargs.get("gpu_memory_utilization", GPU_SHARE))
    if not smallest or weights / size <= smallest * share:
        return None
    whole = "" if size == 1 else f" over {size} GPUs ({parallel_words(speed)}), {gigabytes(weights / size)} each"
    return (
        f"{told}: weights need {gigabytes(weights)}{whole}; the smallest GPU has {gigabytes(smallest)}, of which "
        f"{share:g} is used: {_remedy(speed, resources, weights, smallest * share)}"
    )


def _remedy(speed: SpeedConfig, resources: Resources, weights: int, budget: float) -> str:
    """The smallest tensor-parallel size that holds the weights, where a node has so many GPUs."""
    largest = int(max(node.num_gpus for node in resources.nodes))
    sizes = [2**power for power in range(1, 7) if weights / 2**power / _size(speed, "pipeline") <= budget]
    if sizes and sizes[0] * _size(speed, "pipeline") <= largest:
        return f"use speed.engine_kwargs.tensor_parallel_size {sizes[0]}, a quantized or a smaller model."
    return f"no node has GPUs enough (the largest has {largest}): use larger GPUs, a quantized or a smaller model."


def _node_memory_shortage(who: str, num: int, cpus: float, resources: Resources, weights: int, told: str) -> str | None:
    """The first node whose share of `num` holders needs more memory than it has."""
    for node in resources.nodes:
        here = min(num, places_on(node, cpus, 0.0))
        if node.memory_bytes and here * weights > node.memory_bytes:
            return (
                f"{told}: {here} {who} on node {node.name} need {here} x {gigabytes(weights)} for weights alone, and "
                f"it has {gigabytes(node.memory_bytes)} of memory. Use fewer a node, a smaller model, or more memory."
            )
    return None


def _size(speed: SpeedConfig, kind: str) -> int:
    return int(speed.engine_kwargs.get(f"{kind}_parallel_size", 1))
