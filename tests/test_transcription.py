"""The product's votes, kept answers, cuts and decisions are those of tests/transcription.py, on random scripted pools.

Steps are held in memory and parts are mapped in this process; everything between them is the product's own code.
"""

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pyarrow as pa
import pytest

from semievol_ray import schema
from semievol_ray.core.answers import Number
from semievol_ray.engines.base import Sampling
from semievol_ray.errors import NothingAcceptedError
from semievol_ray.methodconfig import PercentileConfig
from semievol_ray.runs import Step
from semievol_ray.stages import cuts, pools, select, ties
from semievol_ray.stages.answering import Asker, failed
from semievol_ray.stages.justify import JustifyJob, justify_part
from semievol_ray.tasks import Task
from tests.transcription import Answered, Decided, Draft, Method, Row, all_rounds

NUM_POOLS = 1000
TASK = Task("amounts", "Say how many.", Number(0.01), max_tokens=8)
ANSWERS = ("100", "100.7", "101.4", "7", "-3", "0")  # 100 = 100.7 and 100.7 = 101.4, but 100 is not 101.4
VALUES = (0.0, 0.125, 0.1, 0.1 + 1e-10, 0.3, 0.30000001, 0.7, 1.5, 2.25)
ESTIMATORS = ("mean_nll", "answer_nll", "scored_nll", "vote_entropy")
FAILED = "the engine gave up"


@dataclass
class MemoryStep:
    """A step's parts, held in memory."""

    parts: tuple[str, ...]
    name: str = "memory"
    path: str = "memory"
    tables: dict[str, pa.Table] = field(default_factory=dict)

    def missing_parts(self) -> tuple[str, ...]:
        return self.parts

    def read_part(self, part: str, columns: pa.Schema, only: Sequence[str] | None = None) -> pa.Table:
        assert self.tables[part].schema.equals(columns)
        return self.tables[part].select(columns.names if only is None else only)

    def commit_part(self, part: str, table: pa.Table) -> bool:
        self.tables[part] = table
        return True

    def rows(self) -> list[dict[str, Any]]:
        return [row for part in self.parts for row in self.tables[part].to_pylist()]


@dataclass(frozen=True)
class ScriptedAsker:
    """M_warm: justifies and scores a row as the script says; a question is its row's id."""

    said: dict[str, Answered]
    task: Task = TASK

    async def ask(self, render: Callable[[int], Any], *_: object) -> dict[str, Any]:
        row = self.said[render(0)[-1].content]
        if row.justified.error:
            return failed(FAILED)
        numbers = {name: row.numbers[name] for name in ("mean_nll", "answer_nll")}
        told = {"text": "", "answer": row.justified.answer, "finish_reason": "length" if row.truncated else "stop"}
        return {**told, "num_prompt_tokens": 1, "num_tokens": 1, **numbers, "error": None}

    async def score(self, messages: Sequence[Any], *_: object, **__: object) -> tuple[float, ...] | None:
        value = self.said[messages[-1].content].numbers["scored_nll"]
        return None if value is None else (-value, -value)


def in_process(function: Callable[..., Any], parts: Sequence[str], **constants: Any) -> Iterator[Any]:
    """map_parts without Ray."""
    return (function({"part": part}, **constants) for part in parts)


def random_draft(rng: random.Random) -> Draft:
    kind = rng.random()
    if kind < 0.1:
        return Draft(None, error=True)
    answer = None if kind < 0.25 else rng.choice(ANSWERS[: rng.choice([2, 3, 6])])
    return Draft(answer, truncated=rng.random() < 0.3)


def random_answered(rng: random.Random, num_collaborators: int) -> Answered:
    numbers = {name: None if rng.random() < 0.1 else rng.choice(VALUES) for name in ESTIMATORS[:3]}
    drafts = [random_draft(rng) for _ in range(num_collaborators)]
    if rng.random() < 0.3:
        drafts = [drafts[0]] * num_collaborators
    return Answered(drafts, random_draft(rng), rng.random() < 0.1, numbers)


def random_method(rng: random.Random) -> Method:
    when = rng.choice(["always", "split", "never"])
    return Method(
        justify=when,
        confidence=rng.choice(ESTIMATORS if when == "always" else ESTIMATORS[2:]),
        theta=rng.choice([0.1, 0.3, 0.5, 0.7, 1.0]),
        scope=rng.choice(["global", "per_answer", "per_group"]),
        ties=rng.choice(["all", "exact"]),
        threshold=rng.choice(["percentile", "ceiling"]),
        reanswer=rng.choice(["rejected", "all"]),
    )


def step_of(columns: pa.Schema, tables: dict[str, list[dict[str, Any]]]) -> MemoryStep:
    made = {part: pa.Table.from_pylist(rows, schema=columns) for part, rows in tables.items()}
    return MemoryStep(tuple(tables), tables=made)


def pool_of(rows: list[Row]) -> MemoryStep:
    full = [{"id": row.id, "question": row.id, "group": row.group, "num_copies": 1} for row in rows]
    return step_of(schema.UNLABELED, {"part-00000": full[: len(full) // 2], "part-00001": full[len(full) // 2 :]})


def drafts_of(pool: MemoryStep, said: dict[str, Answered], nth: int) -> MemoryStep:
    def row(row_id: str) -> dict[str, Any]:
        draft = said[row_id].drafts[nth]
        finish = None if draft.error else "length" if draft.truncated else "stop"
        return {"id": row_id, "answer": draft.answer, "finish_reason": finish, "error": FAILED if draft.error else None}

    ids = {part: pool.tables[part].column("id").to_pylist() for part in pool.parts}
    return step_of(schema.DRAFTS, {part: [row(i) for i in of_part] for part, of_part in ids.items()})


async def product_rounds(pool: MemoryStep, said: list[dict[str, Answered]], method: Method) -> list[list[Decided]]:
    """How every row stands after each round as the product's stages decide; ends where a round accepts nothing."""
    rule = PercentileConfig.model_validate({k: getattr(method, k) for k in ("theta", "scope", "ties")})
    selections: list[MemoryStep] = []
    standing: dict[str, Decided] = {}
    history: list[list[Decided]] = []
    first: select.Cuts | None = None
    for number, answers in enumerate(said, start=1):
        asked = MemoryStep(pool.parts)
        before = selections if method.reanswer == "rejected" else []
        pools.write_pool(cast(Step, asked), cast(Step, pool), cast(list[Step], before), frozenset())
        drafts = [drafts_of(asked, answers, nth) for nth in range(len(next(iter(answers.values())).drafts))]
        justified = MemoryStep(pool.parts)
        job = JustifyJob(
            *cast(Any, (justified, asked, tuple(drafts), Sampling(0.0, 8), "warm", method.confidence, method.justify))
        )
        for part in pool.parts:
            justified.commit_part(part, await justify_part(job, part, cast(Asker, ScriptedAsker(answers))))
        answered = select.Answered(cast(Step, asked), cast(Step, justified))
        try:
            chosen = cuts.choose_cuts(answered, rule, ceiling=first if method.threshold == "ceiling" else None)
        except NothingAcceptedError:
            return history
        first = first or chosen
        selections.append(MemoryStep(pool.parts))
        select.select(cast(Step, selections[-1]), answered, chosen, lambda _: None)
        for row in selections[-1].rows():
            standing[row["id"]] = Decided(row["id"], row["label"], row["confidence"], row["decision"], number)
        history.append([standing[row["id"]] for row in pool.rows()])
    return history


async def compare(seed: int) -> tuple[int, str]:
    """Rounds compared for one random pool, and its first difference."""
    rng = random.Random(seed)
    rows = [Row(f"r{i:02d}", rng.choice([None, "law", "art"])) for i in range(rng.randint(1, 12))]
    num_collaborators, num_rounds, method = rng.randint(1, 4), rng.randint(1, 3), random_method(rng)
    said = [[random_answered(rng, num_collaborators) for _ in rows] for _ in range(num_rounds)]
    expected = all_rounds(rows, said, method, TASK.equal)
    by_id = [{row.id: told for row, told in zip(rows, of_round, strict=True)} for of_round in said]
    found = await product_rounds(pool_of(rows), by_id, method)
    for number, (ours, theirs) in enumerate(zip(expected, found, strict=False), start=1):
        for one, other in zip(ours, theirs, strict=True):
            if one != other:
                return number, f"seed {seed}, {method}, round {number}: {one} is {other} in the product"
    if len(found) < num_rounds:  # the product stops: no row that was answered in this round has an H
        later = [row for row in expected[len(found)] if row.round == len(found) + 1]
        if any(row.confidence is not None for row in later):
            return len(found), f"seed {seed}: the product stopped at round {len(found) + 1} of {expected}"
    return len(found), ""


def test_transcription_decides_a_thousand_random_pools_as_the_product_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (cuts, pools, select, ties):
        monkeypatch.setattr(module, "map_parts", in_process)

    async def every() -> list[tuple[int, str]]:
        return [await compare(seed) for seed in range(NUM_POOLS)]

    compared = asyncio.run(every())

    assert [difference for _, difference in compared if difference] == []
    assert sum(num_rounds for num_rounds, _ in compared) > NUM_POOLS
