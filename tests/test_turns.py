"""Pools that stand at once: those whose engines have room beside each other."""

import pytest

from semievol_ray.placement import Node, Replicas, Resources
from semievol_ray.turns import turns

TWO_GPU_NODES = Resources((Node(32, 8),) * 2)


@pytest.mark.parametrize(
    ("nums", "expected"),
    [
        ((16, 16, 16), [[0], [1], [2]]),
        ((2, 12, 1, 1, 4), [[0, 1, 2, 3], [4]]),
        ((12, 6, 4, 10), [[0, 2], [1, 3]]),
        ((40, 1), [[0], [1]]),  # more than there are, where the cluster grows by itself
        ((), []),
    ],
)
def test_pools_stand_at_once_where_all_their_engines_have_room(
    nums: tuple[int, ...], expected: list[list[int]]
) -> None:
    assert turns([Replicas(num, 1, 1, 1) for num in nums], TWO_GPU_NODES) == expected


def test_pool_that_may_grow_stands_beside_others_with_all_it_may_grow_to() -> None:
    growing = Replicas(1, 1, 4, 1, min_num=1, max_num=3)
    assert turns([growing, Replicas(1, 1, 4, 1)], TWO_GPU_NODES) == [[0, 1]]
    assert turns([growing, Replicas(2, 1, 4, 1)], TWO_GPU_NODES) == [[0], [1]]
