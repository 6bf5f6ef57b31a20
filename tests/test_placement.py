"""Placement: what fits on a cluster, and the arithmetic of what does not."""

from typing import Any

import pytest

from semievol_ray.config import SpeedConfig
from semievol_ray.errors import PlacementError
from semievol_ray.placement import Node, Replicas, Resources, place, place_training

LAPTOP = Resources((Node(2, 0),))
TWO_CPU_NODES = Resources((Node(8, 0),) * 2)
ONE_GPU = Resources((Node(16, 1),))
TWO_GPU_NODES = Resources((Node(32, 8),) * 2)
UNEVEN = Resources((Node(8, 0), Node(8, 3), Node(4, 1)))


@pytest.mark.parametrize(
    ("resources", "speed", "expected"),
    [
        (LAPTOP, {}, Replicas(1, 2, 0, 2)),
        (LAPTOP, {"num_replicas": 2}, Replicas(2, 1, 0, 1)),
        (LAPTOP, {"num_cpus_per_replica": 0.5}, Replicas(4, 0.5, 0, 1)),
        (TWO_CPU_NODES, {}, Replicas(2, 8, 0, 8)),
        (TWO_CPU_NODES, {"num_replicas": 1}, Replicas(1, 8, 0, 8)),  # a replica lies on one node
        (TWO_CPU_NODES, {"num_replicas": 3, "num_cpus_per_replica": 4}, Replicas(3, 4, 0, 4)),
        (TWO_CPU_NODES, {"num_replicas": 3}, Replicas(3, 4, 0, 4)),  # of 5 CPUs each node holds but one
        (ONE_GPU, {}, Replicas(1, 1, 1, 1)),
        (UNEVEN, {}, Replicas(4, 1, 1, 1)),
        (UNEVEN, {"engine_kwargs": {"tensor_parallel_size": 2}}, Replicas(1, 1, 2, 1)),
        (Resources((Node(2, 4),)), {}, Replicas(2, 1, 1, 1)),  # its CPUs are the fewer
        (TWO_GPU_NODES, {}, Replicas(16, 1, 1, 1)),
        (TWO_GPU_NODES, {"num_replicas": 5}, Replicas(5, 1, 1, 1)),
        (TWO_GPU_NODES, {"engine_kwargs": {"tensor_parallel_size": 4}}, Replicas(4, 1, 4, 1)),
        (
            TWO_GPU_NODES,
            {"engine_kwargs": {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}, "num_cpus_per_replica": 8},
            Replicas(4, 8, 4, 8),
        ),
    ],
)
def test_replicas_fill_the_cluster_or_are_as_asked(
    resources: Resources, speed: dict[str, Any], expected: Replicas
) -> None:
    assert place(SpeedConfig(**speed), resources) == expected


@pytest.mark.parametrize(
    ("resources", "speed", "told"),
    [
        (LAPTOP, {"num_replicas": 3}, r"num_replicas 3 .* 3 x \(1 CPUs, 0 GPUs\).*1 of 2 CPUs.*room for 2"),
        (LAPTOP, {"num_cpus_per_replica": 4}, r"1 x \(4 CPUs, 0 GPUs\).*room for 0"),
        (TWO_CPU_NODES, {"num_cpus_per_replica": 12}, r"1 x \(12 CPUs, 0 GPUs\).*2 of 8 CPUs and 0 GPUs"),
        (TWO_CPU_NODES, {"num_cpus_per_replica": 5, "num_replicas": 3}, "room for 2"),
        (ONE_GPU, {"num_replicas": 2}, r"2 x \(1 CPUs, 1 GPUs\).*1 of 16 CPUs and 1 GPUs: room for 1"),
        (ONE_GPU, {"engine_kwargs": {"tensor_parallel_size": 2}}, r"1 x \(1 CPUs, 2 GPUs\).*room for 0"),
        (TWO_GPU_NODES, {"engine_kwargs": {"tensor_parallel_size": 16}}, "room for 0"),
        (UNEVEN, {"engine_kwargs": {"tensor_parallel_size": 2}, "num_replicas": 2}, "room for 1"),
        (Resources(()), {}, "nodes are none: room for 0"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_arithmetic(
    resources: Resources, speed: dict[str, Any], told: str
) -> None:
    with pytest.raises(PlacementError, match=told):
        place(SpeedConfig(**speed), resources)


def test_training_workers_share_the_cpus_or_take_a_gpu_each() -> None:
    assert place_training(SpeedConfig(), LAPTOP) == (2, 0)
    assert place_training(SpeedConfig(num_train_workers=2), LAPTOP) == (1, 0)
    assert place_training(SpeedConfig(num_train_workers=3), TWO_CPU_NODES) == (4, 0)
    assert place_training(SpeedConfig(num_train_workers=16), TWO_GPU_NODES) == (1, 1)


@pytest.mark.parametrize(("resources", "workers"), [(LAPTOP, 3), (ONE_GPU, 2)])
def test_more_training_workers_than_fit_are_refused(resources: Resources, workers: int) -> None:
    with pytest.raises(PlacementError, match=f"num_train_workers {workers}"):
        place_training(SpeedConfig(num_train_workers=workers), resources)
