"""How many rows each step of a run works on, from the sizes of its splits and the rule of its rounds.

Invariant: arithmetic alone; a step that has no rows of its own kind is None, never a guess.
"""

from dataclasses import dataclass

ANSWERS = ("drafts", "justify", "evaluate", "validation")
EMBEDDED = ("retrieve", "embeddings", "dev_embeddings")
_OF_POOL = frozenset(("pool", "retrieve", "drafts", "justify", "select", "unlabeled", "gold", "embeddings"))


@dataclass(frozen=True)
class Splits:
    """Rows of each split; 0 where the configuration asks for none."""

    labeled: int
    pool: int
    test: int = 0
    dev: int = 0
    validation: int = 0

    @property
    def total(self) -> int:
        """Rows of all splits."""
        return self.labeled + self.pool + self.test + self.dev + self.validation


@dataclass(frozen=True)
class Rounds:
    """How rounds go on: their number, the share of the answered rows each accepts, and whether accepted rows leave."""

    num: int
    accepted: float
    leaves: bool = True


def kind_of(step: str) -> str:
    """What a step does: drafts, justify, evaluate, train and so on."""
    names = step.split("/")
    return "drafts" if "drafts" in names else names[-1]


def step_rows(step: str, splits: Splits, rounds: Rounds) -> int | None:
    """Rows that a step reads; of a fine-tuning its examples. None for steps that are not of this table.

    Accepted rows leave the pool of later rounds where `leaves`, and a dev slice leaves when its round is over.
    """
    kind, number = kind_of(step), _round(step)
    whole = {"labeled": splits.labeled, "test": splits.test, "evaluate": splits.test, "validation": splits.validation}
    if kind in whole:
        return whole[kind]
    if kind in ("dev", "dev_gold", "dev_embeddings"):
        return splits.dev
    if kind == "near_duplicates":
        return splits.total
    if kind in ("examples", "train", "shown"):
        return num_examples(number - (kind == "shown"), splits, rounds)
    if kind not in _OF_POOL:
        return None
    if "dev" in step.split("/"):
        return splits.dev * (rounds.num - number + 1) // rounds.num
    return pool_rows(number, splits, rounds)


def pool_rows(number: int, splits: Splits, rounds: Rounds) -> int:
    """Rows of the pool that a round answers; round 0 stands for the ingested pool."""
    earlier = max(0, number - 1) if rounds.leaves else 0
    return round(splits.pool * (1 - rounds.accepted) ** earlier)


def num_examples(number: int, splits: Splits, rounds: Rounds) -> int:
    """Examples of a round's fine-tuning: the labels, and what rounds accepted so far (of this one where rows stay)."""
    first = 1 if rounds.leaves else number
    accepted = sum(rounds.accepted * pool_rows(n, splits, rounds) for n in range(max(1, first), number + 1))
    return splits.labeled + round(accepted)


def _round(step: str) -> int:
    return int(step.split("/")[1]) if step.startswith("rounds/") else 0
