"""Pools of engines -> which of them stand on the cluster at once, turn by turn.

Invariant: the engines of one turn have room beside each other, however far their pools grow.
"""

from collections.abc import Sequence

from semievol_ray.placement import Replicas, Resources


def turns(pools: Sequence[Replicas], resources: Resources) -> list[list[int]]:
    """Which of these pools stand at once: positions, turn by turn, each in the first turn where its engines have room.

    A pool counts with the most engines it may grow to, so that none waits for what another holds.
    """
    found: list[list[int]] = []
    for position, pool in enumerate(pools):
        fitting = (turn for turn in found if _fit([*(pools[i] for i in turn), pool], resources))
        if (turn := next(fitting, None)) is None:
            found.append([position])
        else:
            turn.append(position)
    return found


def _fit(pools: Sequence[Replicas], resources: Resources) -> bool:
    """Whether these pools fit at once: counted as if each of their engines needed what the largest does."""
    cpus, gpus = max(pool.cpus_each for pool in pools), max(pool.gpus_each for pool in pools)
    return sum(pool.max_num for pool in pools) <= resources.num_places(cpus, gpus)
