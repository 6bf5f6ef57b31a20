"""method.md's rounds in plain Python lists: votes, kept answers, thresholds, decisions, freezing; the product's oracle.

Invariant: nothing here is imported from the product, and it was written from the method page without reading the code
that it judges. Where the page leaves something open, the reading taken is marked OPEN.
"""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

Equal = Callable[[str, str], bool]
Scored = tuple[str, float, float]
"""Id, H and vote share of a row that has an H."""


@dataclass(frozen=True)
class Draft:
    """One collaborator's answer to one row: what was read, None if unreadable; `error` where the engine failed.

    `truncated`: it ended at max_tokens.
    """

    answer: str | None
    error: bool = False
    truncated: bool = False


@dataclass(frozen=True)
class Answered:
    """What the scripted models say about one row in one round; `justified` is used only where the mode asks for it.

    `truncated`: it ended at max_tokens. `numbers`: each estimator's value, whichever answer ends up being kept.
    """

    drafts: list[Draft]
    justified: Draft
    truncated: bool
    numbers: dict[str, float | None]


@dataclass(frozen=True)
class Row:
    """A row of the pool: its id and the column that `per_group` goes by."""

    id: str
    group: str | None = None


@dataclass(frozen=True)
class Method:
    """The settings that decide."""

    justify: str = "always"
    confidence: str = "mean_nll"
    theta: float = 0.5
    scope: str = "global"
    ties: str = "all"
    threshold: str = "percentile"
    reanswer: str = "rejected"


@dataclass(frozen=True)
class Vote:
    """The tally of one row's drafts; `truncated`: every draft that gave the answer ended at max_tokens."""

    answer: str | None
    share: float
    entropy: float
    unanimous: bool
    truncated: bool


@dataclass(frozen=True)
class Decided:
    """How one row stands after a round; label, H and decision are of round `round`."""

    id: str
    label: str | None
    confidence: float | None
    decision: str
    round: int


@dataclass
class State:
    """What a round leaves to the next: how each row stands, and round 1's tau by scope key."""

    rows: list[Decided] = field(default_factory=list)
    first_taus: dict[str | None, float] = field(default_factory=dict)


def float32(value: float) -> float:
    """The value as H is stored; a non-finite one is an error."""
    if not math.isfinite(value):
        raise ValueError(f"H is {value}")
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def vote(drafts: list[Draft], equal: Equal) -> Vote:
    """An answer joins the first group whose first member it equals, in collaborator order; a plurality tie is none."""
    groups: list[tuple[str, list[Draft]]] = []
    for draft in drafts:
        if draft.answer is None or draft.error:
            continue
        for first, group in groups:
            if equal(first, draft.answer):
                group.append(draft)
                break
        else:
            groups.append((draft.answer, [draft]))
    n, sizes = len(drafts), [len(group) for _, group in groups]
    largest = max(sizes, default=0)
    winners = [(first, group) for first, group in groups if len(group) == largest]
    alone = n - sum(sizes)  # OPEN: an unreadable draft agrees with nobody, so it weighs 1/n in the entropy
    entropy = -sum(size / n * math.log(size / n) for size in sizes + [1] * alone)
    if len(winners) != 1:
        return Vote(None, 0.0, entropy, False, False)
    answer, givers = winners[0]
    truncated = all(draft.truncated for draft in givers)  # OPEN: one whole completion of the answer is enough
    return Vote(answer, largest / n, entropy, len(groups) == 1 and largest == n, truncated)


def is_justified(tally: Vote, when: str) -> bool:
    """Whether M_warm is asked again about a row with this tally."""
    return when == "always" or (when == "split" and not tally.unanimous)


def kept_answer(row: Answered, tally: Vote, when: str) -> tuple[str | None, bool]:
    """The answer that stands for the row, and whether an engine error stands in its place."""
    if is_justified(tally, when):
        return (None, True) if row.justified.error else (row.justified.answer, False)
    failed = all(draft.error for draft in row.drafts)  # OPEN: without justification, every draft has to have failed
    return tally.answer, failed


def confidence(row: Answered, tally: Vote, label: str | None, method: Method) -> float | None:
    """H of the row as float32; None without a kept answer, or where that answer comes from a truncated completion."""
    truncated = row.truncated if is_justified(tally, method.justify) else tally.truncated
    if label is None or truncated:  # OPEN: whatever the estimator
        return None
    value = tally.entropy if method.confidence == "vote_entropy" else row.numbers[method.confidence]
    return None if value is None else float32(value)


def scope_key(method: Method, row: Row, label: str | None) -> str | None:
    """What a row shares its threshold with."""
    return {"global": "everything", "per_answer": label, "per_group": row.group}[method.scope]


def accepted(rows: list[Scored], method: Method, ceiling: float | None) -> tuple[set[str], float]:
    """Ids of one scope's R rows that are kept, and tau: the ceil(theta R)-th smallest H, never above the ceiling.

    `ties: exact` takes no more than ceil(theta R) of them, in the order H, greater vote share, id.
    """
    num_kept = math.ceil(Fraction(str(method.theta)) * len(rows))  # theta as it was written, not as binary has it
    tau = sorted(h for _, h, _ in rows)[num_kept - 1]
    if method.threshold == "ceiling" and ceiling is not None:  # OPEN: a scope that round 1 did not have has no ceiling
        tau = min(tau, ceiling)
    below = sorted((row for row in rows if row[1] <= tau), key=lambda row: (row[1], -row[2], row[0]))
    if method.ties == "exact":
        below = below[:num_kept]
    return {row[0] for row in below}, tau


def one_round(number: int, pool: list[Row], said: list[Answered], state: State, method: Method, equal: Equal) -> State:
    """Every row of the pool after this round; `said` is beside `pool`, and is not looked at for frozen rows."""
    frozen = {}
    if method.reanswer == "rejected":
        frozen = {row.id: row for row in state.rows if row.decision == "accepted"}
    votes = [vote(answered.drafts, equal) for answered in said]
    kept = [kept_answer(answered, tally, method.justify) for answered, tally in zip(said, votes, strict=True)]
    values = [
        None if failed else confidence(answered, tally, label, method)
        for answered, tally, (label, failed) in zip(said, votes, kept, strict=True)
    ]
    scopes: dict[str | None, list[Scored]] = {}
    for row, tally, (label, _), h in zip(pool, votes, kept, values, strict=True):
        if row.id not in frozen and h is not None:
            scopes.setdefault(scope_key(method, row, label), []).append((row.id, h, tally.share))
    chosen: set[str] = set()
    taus: dict[str | None, float] = {}
    for key, rows in scopes.items():
        ids, taus[key] = accepted(rows, method, state.first_taus.get(key))
        chosen |= ids
    after = []
    for row, (label, failed), h in zip(pool, kept, values, strict=True):
        if row.id in frozen:
            after.append(frozen[row.id])
        elif failed:
            after.append(Decided(row.id, None, None, "engine_error", number))
        elif label is None:
            after.append(Decided(row.id, None, None, "unreadable", number))
        else:
            after.append(Decided(row.id, label, h, "accepted" if row.id in chosen else "uncertain", number))
    return State(after, taus if number == 1 else state.first_taus)


def all_rounds(pool: list[Row], said: list[list[Answered]], method: Method, equal: Equal) -> list[list[Decided]]:
    """How every row stands after each round; `said[r - 1]` is what round r's models answer to each row."""
    state, history = State(), []
    for number, answers in enumerate(said, start=1):
        state = one_round(number, pool, answers, state, method, equal)
        history.append(state.rows)
    return history
