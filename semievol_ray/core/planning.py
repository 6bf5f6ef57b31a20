"""What a run will take, from how much each step does and what a unit of it took: plain arithmetic with intervals.

Invariant: nothing is measured and nothing is assumed here; every figure follows from the arguments.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """A figure between a low and a high one."""

    low: float
    point: float
    high: float

    def __add__(self, other: "Span") -> "Span":
        return Span(self.low + other.low, self.point + other.point, self.high + other.high)

    def times(self, factor: float) -> "Span":
        """Scaled."""
        return Span(self.low * factor, self.point * factor, self.high * factor)

    def holds(self, value: float) -> bool:
        """Whether a value lies in it."""
        return self.low <= value <= self.high


ZERO = Span(0.0, 0.0, 0.0)


def around(point: float, spread: float) -> Span:
    """A figure give or take a share of it."""
    return Span(point * max(0.0, 1 - spread), point, point * (1 + spread))


@dataclass(frozen=True)
class Work:
    """One step to do: `amount` is what takes the time (rows, or the optimizer steps of a fine-tuning).

    `unit` is what it is timed with: its own name, or the session of the engine that does it. `engine` names the engine
    group that does it; "" for steps that no engine does.
    """

    step: str
    unit: str
    rows: int
    amount: int
    parts: int
    engine: str = ""


@dataclass(frozen=True)
class Rate:
    """What a step of one kind took: once, and for each of its amount (on one engine, or one embedder).

    Tokens and bytes are those of a row, `part_files` those that a part leaves, `fixed_*` what a step has besides.
    """

    fixed_seconds: Span = ZERO
    seconds: Span = ZERO
    prompt_tokens: float = 0.0
    tokens: float = 0.0
    row_bytes: float = 0.0
    fixed_bytes: float = 0.0
    part_files: float = 1.0
    fixed_files: float = 2.0
    token_price: float = 0.0


@dataclass(frozen=True)
class PlannedStep:
    """One step of a plan. `seconds` leave out what its unit takes once (an engine's start)."""

    step: str
    unit: str
    rows: int
    prompt_tokens: float
    tokens: float
    seconds: Span
    num_bytes: float
    num_files: int
    money: float


@dataclass(frozen=True)
class PlannedUnit:
    """What is timed together: a step, or an engine's session with its start."""

    name: str
    seconds: Span


@dataclass(frozen=True)
class Totals:
    """A whole run: its time, that of its shared work if one engine and what comes with it did it, what it leaves."""

    seconds: Span
    engine_seconds: float
    rows: int
    prompt_tokens: float
    tokens: float
    num_bytes: float
    num_files: int
    money: float


def planned(
    works: Sequence[Work], rates: Mapping[str, Rate], starts: Mapping[str, Span], shares: Mapping[str, int]
) -> tuple[list[PlannedStep], list[PlannedUnit]]:
    """The steps and the units of a plan, in the order of the works.

    rates: by step. starts: what a unit takes once, by unit. shares: engines or embedders among which a step's work is
    divided, by step.
    """
    steps = [_planned(work, rates[work.step], shares.get(work.step, 1)) for work in works]
    units: dict[str, Span] = {}
    for step in steps:
        units[step.unit] = units.get(step.unit, starts.get(step.unit, ZERO)) + step.seconds
    return steps, [PlannedUnit(name, seconds) for name, seconds in units.items()]


def totals(
    steps: Sequence[PlannedStep], units: Sequence[PlannedUnit], works: Sequence[Work], rates: Mapping[str, Rate],
    shares: Mapping[str, int], replicas: int, once: Span = ZERO,
) -> Totals:  # fmt: skip
    """The sums for `replicas` engines; `once` is what a run takes besides its units."""
    return Totals(
        seconds=sum((unit.seconds for unit in units), once),
        engine_seconds=sum(
            w.amount * rates[w.step].seconds.point * replicas / shares[w.step] for w in works if w.step in shares
        ),
        rows=sum(step.rows for step in steps),
        prompt_tokens=sum(step.prompt_tokens for step in steps),
        tokens=sum(step.tokens for step in steps),
        num_bytes=sum(step.num_bytes for step in steps),
        num_files=sum(step.num_files for step in steps),
        money=sum(step.money for step in steps),
    )


def replicas_for(limit_seconds: float, found: Totals, replicas: int) -> int | None:
    """The fewest replicas with which the run ends within so many seconds; None where no number does.

    `found` is the plan for `replicas`: what is shared is divided among so many more or fewer, all else stays.
    """
    fixed = found.seconds.point - found.engine_seconds / replicas
    if found.engine_seconds == 0:
        return 1 if fixed <= limit_seconds else None
    left = limit_seconds - fixed
    return max(1, math.ceil(found.engine_seconds / left)) if left > 0 else None


def _planned(work: Work, rate: Rate, num: int) -> PlannedStep:
    share = rate.seconds.times(work.amount / num)
    return PlannedStep(
        step=work.step,
        unit=work.unit,
        rows=work.rows,
        prompt_tokens=work.rows * rate.prompt_tokens,
        tokens=work.rows * rate.tokens,
        seconds=rate.fixed_seconds + share,
        num_bytes=rate.fixed_bytes + work.rows * rate.row_bytes,
        num_files=round(rate.fixed_files + work.parts * rate.part_files),
        money=work.rows * rate.token_price,
    )
