"""Placement: what fits on a cluster, and the arithmetic of what does not."""

import re
from typing import Any

import pytest

from semievol_ray.config import SpeedConfig
from semievol_ray.errors import PlacementError
from semievol_ray.placement import (
    Node,
    Replicas,
    Resources,
    engine_memory_shortage,
    place,
    place_embedding,
    place_training,
    standing,
    training_memory_shortage,
    with_work,
)

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
        (
            ONE_GPU,
            {"engine_kwargs": {"tensor_parallel_size": 2}},
            "tensor_parallel_size 2 needs 2 GPUs on one node; the largest has 1",
        ),
        (
            TWO_GPU_NODES,
            {"engine_kwargs": {"tensor_parallel_size": 8, "pipeline_parallel_size": 2}},
            "tensor_parallel_size 8 x pipeline_parallel_size 2 needs 16 GPUs on one node; the largest has 8",
        ),
        (TWO_CPU_NODES, {"num_replicas": {"min": 17, "max": 20}}, "num_replicas min 17 .* room for 16"),
        (UNEVEN, {"engine_kwargs": {"tensor_parallel_size": 2}, "num_replicas": 2}, "room for 1"),
        (Resources(()), {}, "nodes are none: room for 0"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_arithmetic(
    resources: Resources, speed: dict[str, Any], told: str
) -> None:
    with pytest.raises(PlacementError, match=told):
        place(SpeedConfig(**speed), resources)


@pytest.mark.parametrize(
    ("resources", "asked", "expected"),
    [
        (LAPTOP, {"min": 1, "max": 2}, Replicas(2, 1, 0, 1, 1, 2)),
        (LAPTOP, {"min": 1, "max": 4}, Replicas(2, 1, 0, 1, 1, 4)),  # it starts with what fits and may grow
        (TWO_GPU_NODES, {"min": 4, "max": 12}, Replicas(12, 1, 1, 1, 4, 12)),
        (TWO_GPU_NODES, {"min": 4, "max": 64}, Replicas(16, 1, 1, 1, 4, 64)),
    ],
)
def test_range_of_replicas_starts_with_as_many_as_fit(
    resources: Resources, asked: dict[str, int], expected: Replicas
) -> None:
    assert place(SpeedConfig.model_validate({"num_replicas": asked}), resources) == expected


@pytest.mark.parametrize(
    ("asked", "most", "expected"),
    [
        ("auto", 3, (3, 3, 3)),
        ("auto", 0, (1, 1, 1)),
        ("auto", 99, (16, 16, 16)),
        (5, 3, (5, 5, 5)),  # as asked
        ({"min": 4, "max": 64}, 6, (4, 6, 6)),
        ({"min": 4, "max": 64}, 2, (4, 4, 4)),
    ],
)
def test_no_engine_is_placed_for_which_no_part_is_left_unless_it_is_asked_for(
    asked: Any, most: int, expected: tuple[int, int, int]
) -> None:
    speed = SpeedConfig.model_validate({"num_replicas": asked})
    found = with_work(speed, place(speed, TWO_GPU_NODES), most)

    assert (found.min_num, found.num, found.max_num) == expected


def test_cluster_counts_what_joined_and_waits_for_what_went_away() -> None:
    assert standing(ONE_GPU, TWO_GPU_NODES) is TWO_GPU_NODES
    assert standing(TWO_GPU_NODES, ONE_GPU) is TWO_GPU_NODES
    assert standing(LAPTOP, TWO_CPU_NODES) is TWO_CPU_NODES
    assert standing(LAPTOP, TWO_GPU_NODES) is LAPTOP  # what was begun without GPUs goes on without
    assert standing(ONE_GPU, TWO_CPU_NODES) is ONE_GPU


def test_fixed_number_of_replicas_neither_shrinks_nor_grows() -> None:
    placed = place(SpeedConfig(num_replicas=2), LAPTOP)

    assert (placed.min_num, placed.num, placed.max_num) == (2, 2, 2)


def test_cluster_that_grows_by_itself_is_waited_for() -> None:
    speed = SpeedConfig(num_replicas=4, num_train_workers=3, autoscaling=True)

    assert place(speed, ONE_GPU) == Replicas(4, 1, 1, 1)
    assert place_training(speed, ONE_GPU) == (1, 1)


GIB = 2**30
T4 = Resources((Node(16, 4, 64 * GIB, (16 * GIB,) * 4, "a"),))


@pytest.mark.parametrize(
    ("speed", "weights", "told"),
    [
        ({}, 14e9, None),
        (
            {},
            16.1e9,
            r"weights need 16.1 GB; the smallest GPU has 17.2 GB, of which 0.92 is used: "
            r"use speed.engine_kwargs.tensor_parallel_size 2",
        ),
        ({"engine_kwargs": {"tensor_parallel_size": 2}}, 30e9, None),
        ({"engine_kwargs": {"tensor_parallel_size": 2}}, 40e9, r"over 2 GPUs .*20.0 GB each.*tensor_parallel_size 4"),
        (
            {"engine_kwargs": {"gpu_memory_utilization": 0.5}},
            14e9,
            r"of which 0.5 is used: use .*tensor_parallel_size 2",
        ),
        ({}, 140e9, r"no node has GPUs enough \(the largest has 4\)"),
    ],
)
def test_weights_are_held_against_the_memory_of_the_gpus(
    speed: dict[str, Any], weights: float, told: str | None
) -> None:
    found = engine_memory_shortage(SpeedConfig(**speed), T4, int(weights), "big in bfloat16")

    assert found is None if told is None else found and re.search(told, found)


def test_weights_of_every_engine_of_a_node_are_held_against_its_memory() -> None:
    resources = Resources((Node(8, 0, 64 * 10**9, (), "large"), Node(4, 0, 8 * 10**9, (), "small")))

    two = SpeedConfig(num_replicas=3, num_cpus_per_replica=2)
    assert engine_memory_shortage(two, resources, 3 * 10**9, "m") is None
    assert "2 engines on node small need 2 x 5.0 GB" in (engine_memory_shortage(two, resources, 5 * 10**9, "m") or "")
    assert engine_memory_shortage(two, LAPTOP, 10**15, "m") is None  # its memory is not known


def test_training_holds_the_weights_whole_unless_zero_divides_them() -> None:
    told = training_memory_shortage(SpeedConfig(num_train_workers=4, zero_stage=2), T4, 40 * 10**9, "m")

    assert told is not None
    assert "each worker holds 40.0 GB of weights, and the smallest GPU has 17.2 GB" in told
    assert "at least 3 workers" in told
    assert training_memory_shortage(SpeedConfig(num_train_workers=4, zero_stage=3), T4, 40 * 10**9, "m") is None


def test_training_workers_share_the_cpus_or_take_a_gpu_each() -> None:
    assert place_training(SpeedConfig(), LAPTOP) == (2, 0)
    assert place_training(SpeedConfig(num_train_workers=2), LAPTOP) == (1, 0)
    assert place_training(SpeedConfig(num_train_workers=3), TWO_CPU_NODES) == (4, 0)
    assert place_training(SpeedConfig(num_train_workers=16), TWO_GPU_NODES) == (1, 1)


@pytest.mark.parametrize(
    ("resources", "workers", "cpus"),
    [
        (ONE_GPU, 1, 16), (TWO_GPU_NODES, 2, 16), (TWO_GPU_NODES, 9, 4), (TWO_GPU_NODES, 16, 4),
        (UNEVEN, 4, 2), (Resources((Node(2, 4),)), 4, 1),
    ],
)  # fmt: skip
def test_training_worker_on_a_gpu_has_its_share_of_the_cpus_where_they_take_the_optimizers_steps(
    resources: Resources, workers: int, cpus: int
) -> None:
    speed = SpeedConfig(num_train_workers=workers, offload="optimizer", autoscaling=True)
    assert place_training(speed, resources) == (cpus, 1)
    assert resources.num_places(cpus, 1) >= min(workers, resources.num_places(1, 1))


@pytest.mark.parametrize(("resources", "workers"), [(LAPTOP, 3), (ONE_GPU, 2)])
def test_more_training_workers_than_fit_are_refused(resources: Resources, workers: int) -> None:
    with pytest.raises(PlacementError, match=f"num_train_workers {workers}"):
        place_training(SpeedConfig(num_train_workers=workers), resources)


@pytest.mark.parametrize(
    ("nodes", "num_parts", "num", "cpus", "gpus"),
    [
        ([Node(2, 0)], 100, 1, 2, 0),
        ([Node(16, 0)] * 3, 100, 3, 16, 0),
        ([Node(16, 0)] * 3, 9, 2, 16, 0),
        ([Node(16, 0)] * 3, 1, 1, 16, 0),
        ([Node(32, 8), Node(8, 0)], 1000, 8, 1, 1),
        ([], 5, 1, 1, 0),
    ],
)
def test_embedders_are_one_a_gpu_or_node_and_no_more_than_there_is_work_for(
    nodes: list[Node], num_parts: int, num: int, cpus: float, gpus: float
) -> None:
    placed = place_embedding(Resources(tuple(nodes)), num_parts)
    assert (placed.num, placed.cpus_each, placed.gpus_each) == (num, cpus, gpus)
