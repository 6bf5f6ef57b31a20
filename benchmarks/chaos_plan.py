"""What is killed in which run, and when: drawn from a seed, so that every run can be had again.

Invariant: a moment is a share of the parts that an undisturbed run commits, and a delay after it; never a clock time.
"""

import random
from dataclasses import dataclass
from enum import StrEnum

LAST_MOMENT = 0.95
MORE_STRIKES = 0.4
"""The chance that a run is struck a second time."""


class Kind(StrEnum):
    """What may be done to a run."""

    ACTOR = "actor"
    NODE = "node"
    NOTICE = "notice"
    DRIVER = "driver"
    TERMINATE = "terminate"
    TAKEOVER = "takeover"
    HEAD = "head"


ABOUT = {
    Kind.ACTOR: "kill -9 of an engine's process",
    Kind.NODE: "kill -9 of a node's raylet and all its workers; another node joins",
    Kind.NOTICE: "SIGTERM to a node's engines, the node dies after the grace period; another joins",
    Kind.DRIVER: "kill -9 of the driver; the same command again",
    Kind.TERMINATE: "SIGTERM to the driver; the same command again",
    Kind.TAKEOVER: "SIGSTOP of the driver, another takes over, SIGCONT",
    Kind.HEAD: "kill -9 of head and nodes; a new cluster, the same command again",
}
NEEDS_ENGINE = frozenset({Kind.ACTOR, Kind.NOTICE})


@dataclass(frozen=True)
class Strike:
    """One disturbance. `moment`: share of parts that are there; `delay`, `choice`: in [0, 1), scaled by who strikes.

    `other`: which of two ways (takeover: the second driver stands still while the first wakes; head: the driver dies
    with it).
    """

    kind: Kind
    moment: float
    delay: float
    choice: float
    other: bool


@dataclass(frozen=True)
class Plan:
    """One run's disturbances, in order of their moments, and which of the two configurations is run."""

    seed: int
    number: int
    variant: int
    strikes: tuple[Strike, ...]


def plan(seed: int, number: int) -> Plan:
    """The plan of one run: of len(Kind) runs in a row each begins with another kind."""
    block, place = divmod(number, len(Kind))
    first = random.Random(f"chaos/{seed}/block/{block}").sample(list(Kind), len(Kind))[place]
    draw = random.Random(f"chaos/{seed}/{number}")
    kinds = [first] + ([draw.choice(list(Kind))] if draw.random() < MORE_STRIKES else [])
    return Plan(seed, number, int(draw.random() < 0.5), _strikes(kinds, draw))


def quick_plans(seed: int) -> tuple[Plan, ...]:
    """Two runs that meet every kind once."""
    draw = random.Random(f"chaos/{seed}/quick")
    survived, ended = (Kind.ACTOR, Kind.NODE, Kind.NOTICE), (Kind.TERMINATE, Kind.DRIVER, Kind.TAKEOVER, Kind.HEAD)
    return tuple(
        Plan(seed, number, number, _strikes(draw.sample(kinds, len(kinds)), draw))
        for number, kinds in enumerate((survived, ended))
    )


def _strikes(kinds: list[Kind], draw: random.Random) -> tuple[Strike, ...]:
    moments = sorted(draw.random() * LAST_MOMENT for _ in kinds)
    return tuple(
        Strike(kind, round(moment, 4), round(draw.random(), 4), round(draw.random(), 4), draw.random() < 0.5)
        for kind, moment in zip(kinds, moments, strict=True)
    )
