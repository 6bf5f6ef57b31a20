"""The vote over the collaborators' answers to one row.

Invariant: agreement needs answers; unreadable drafts never agree with anything, not even with each other.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Vote:
    """The outcome for one row: `answer` is None, and `share` 0, on a tie or without votes; `entropy` in nats."""

    answer: str | None
    share: float
    entropy: float
    unanimous: bool


def tally(answers: Sequence[str | None], equal: Callable[[str, str], bool]) -> Vote:
    """The plurality answer of n drafts, given in collaborator order; None stands for an unreadable or failed draft.

    An answer joins the first group whose first member it equals, and that member speaks for the group. `share` and
    `entropy` are over all n, each unreadable draft counting as a group of its own.
    """
    groups = _grouped(answers, equal)
    sizes = [len(group) for group in groups]
    num_unreadable = sum(answer is None for answer in answers)
    entropy = _entropy([*sizes, *[1] * num_unreadable])
    top = max(sizes, default=0)
    if sizes.count(top) != 1:
        return Vote(None, 0.0, entropy, False)
    return Vote(groups[sizes.index(top)][0], top / len(answers), entropy, top == len(answers))


def shuffled(row_id: str, answers: Sequence[str | None]) -> list[str]:
    """The readable answers, repeats included, in an order that depends on the row's id and on nothing else."""
    readable = [answer for answer in answers if answer is not None]
    order = sorted(range(len(readable)), key=lambda i: hashlib.sha256(f"{row_id}/{i}".encode()).digest())
    return [readable[i] for i in order]


def _grouped(answers: Sequence[str | None], equal: Callable[[str, str], bool]) -> list[list[str]]:
    groups: list[list[str]] = []
    for answer in answers:
        if answer is None:
            continue
        home = next((group for group in groups if equal(group[0], answer)), None)
        if home is None:
            groups.append([answer])
        else:
            home.append(answer)
    return groups


def _entropy(sizes: Sequence[int]) -> float:
    total = sum(sizes)
    return sum((size / total) * math.log(total / size) for size in sizes)
