"""The vote over the collaborators' answers to one row.

Invariant: agreement needs answers; unreadable drafts never agree with anything, not even with each other.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Vote:
    """The outcome for one row: `answer` is None, and `share` 0, on a tie or without votes; `entropy` in nats.

    givers: places of the drafts that gave the answer.
    """

    answer: str | None
    share: float
    entropy: float
    unanimous: bool
    givers: tuple[int, ...] = ()


def tally(answers: Sequence[str | None], equal: Callable[[str, str], bool]) -> Vote:
    """The plurality answer of n drafts, given in collaborator order; None stands for an unreadable or failed draft.

    An answer joins the first group whose first member it equals, and that member speaks for the group. `share` and
    `entropy` are over all n, each unreadable draft counting as a group of its own.
    """
    groups = _grouped(answers, equal)
    sizes = [len(places) for places, _ in groups]
    num_unreadable = sum(answer is None for answer in answers)
    entropy = _entropy([*sizes, *[1] * num_unreadable])
    top = max(sizes, default=0)
    if sizes.count(top) != 1:
        return Vote(None, 0.0, entropy, False)
    givers, answer = groups[sizes.index(top)]
    return Vote(answer, top / len(answers), entropy, top == len(answers), tuple(givers))


def shuffled(row_id: str, answers: Sequence[str | None]) -> list[str]:
    """The readable answers, repeats included, in an order that depends on the row's id and on nothing else."""
    readable = [answer for answer in answers if answer is not None]
    order = sorted(range(len(readable)), key=lambda i: hashlib.sha256(f"{row_id}/{i}".encode()).digest())
    return [readable[i] for i in order]


def _grouped(answers: Sequence[str | None], equal: Callable[[str, str], bool]) -> list[tuple[list[int], str]]:
    """The places of each group's members, and the first member."""
    groups: list[tuple[list[int], str]] = []
    for place, answer in enumerate(answers):
        if answer is None:
            continue
        home = next((places for places, first in groups if equal(first, answer)), None)
        if home is None:
            groups.append(([place], answer))
        else:
            home.append(place)
    return groups


def _entropy(sizes: Sequence[int]) -> float:
    total = sum(sizes)
    return sum((size / total) * math.log(total / size) for size in sizes)
