"""Drafts: what a collaborator is shown, and that its answers stand in the order of the pool."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from typing import Any

import pytest

from semievol_ray import schema
from semievol_ray.core.answers import Choice
from semievol_ray.engines.base import Sampling
from semievol_ray.runs import Step
from semievol_ray.stages.draft import DraftJob, draft_part
from semievol_ray.tasks import Task

WARM = Sampling(1.0, 16, top_p=0.9)


@pytest.fixture
def demonstrations(pool: Step, step_of: Callable[..., Step]) -> Step:
    """Every row's nearest are l2, then l0, then l1."""
    tables = [pool.read_part(part, schema.UNLABELED).column("id").to_pylist() for part in pool.parts]
    nearest = {"demonstration_ids": ["l2", "l0", "l1"], "scores": [0.9, 0.8, 0.7]}
    return step_of("retrieve", schema.DEMONSTRATIONS, *[[{"id": i, **nearest} for i in ids] for ids in tables])


def _job(
    pool: Step, shown: Step, step: Step, demonstrations: Step | None, k: int, adapter: str | None = None
) -> DraftJob:
    return DraftJob(step, pool, shown, demonstrations, k, WARM, adapter)


def test_draft_part_answers_its_rows_in_their_order(
    pool: Step, shown: Step, begun: Callable[..., Step], asking: Callable[..., tuple[Any, Any]]
) -> None:
    engine, asker = asking(lambda prompt: f"Answer: {'plant' if 'number 1' in prompt else 'food'}")
    job = _job(pool, shown, begun("drafts/base", pool.parts), None, 0, "warm-7")
    rows = asyncio.run(draft_part(job, "part-00000", asker)).to_pylist()
    assert [(r["id"], r["answer"]) for r in rows] == [("r0", "food"), ("r1", "plant"), ("r2", "food")]
    assert {(r.sampling, r.adapter) for r in engine.requests} == {(WARM, "warm-7")}


def test_draft_shows_its_own_number_of_demonstrations_the_nearest_beside_the_question(
    pool: Step, shown: Step, demonstrations: Step, begun: Callable[..., Step], asking: Callable[..., tuple[Any, Any]]
) -> None:
    engine, asker = asking(lambda _: "Answer: food")
    job = _job(pool, shown, begun("drafts/base", pool.parts), demonstrations, 2)
    rows = asyncio.run(draft_part(job, "part-00001", asker)).to_pylist()
    assert [r["num_demonstrations"] for r in rows] == [2, 2]
    prompt = next(p for p in engine.prompts if "number 3" in p)
    texts = ["labeled thing 0", "Answer: plant", "labeled thing 2", "Answer: food", "thing number 3"]
    assert [prompt.index(text) for text in texts] == sorted(prompt.index(text) for text in texts)
    assert "labeled thing 1" not in prompt


def test_draft_asks_rows_with_the_same_first_demonstration_side_by_side_and_answers_in_order(
    shown: Step, step_of: Callable[..., Step], begun: Callable[..., Step], asking: Callable[..., tuple[Any, Any]]
) -> None:
    pool = step_of("data/six", schema.UNLABELED, [{"id": f"r{i}", "question": f"thing number {i}"} for i in range(6)])
    farthest = ["l1", "l3", "l1", "l0", "l3", "l1"]
    nearest = [{"id": f"r{i}", "demonstration_ids": ["l2", last]} for i, last in enumerate(farthest)]
    retrieved = step_of("retrieve", schema.DEMONSTRATIONS, nearest)
    engine, asker = asking(lambda prompt: f"Answer: {'plant' if 'number 1' in prompt else 'food'}")
    table = asyncio.run(draft_part(_job(pool, shown, begun("d", pool.parts), retrieved, 2), "part-00000", asker))
    first = [next(w for w in farthest if f"labeled thing {w[1]}" in prompt) for prompt in engine.prompts]
    assert [name for name, _ in groupby(first)] == ["l0", "l1", "l3"]
    assert [(r["id"], r["answer"]) for r in table.to_pylist()][:3] == [("r0", "food"), ("r1", "plant"), ("r2", "food")]


def test_draft_of_one_row_too_long_alone_leaves_the_others_answered(
    shown: Step, step_of: Callable[..., Step], begun: Callable[..., Step], asking: Callable[..., tuple[Any, Any]]
) -> None:
    rows = [{"id": "short", "question": "a thing"}, {"id": "long", "question": "a thing " * 50}]
    pool = step_of("data/long", schema.UNLABELED, rows)
    _, asker = asking(lambda _: "Answer: food", max_model_len=200)
    table = asyncio.run(draft_part(_job(pool, shown, begun("drafts/x", pool.parts), None, 0), "part-00000", asker))
    short, long = table.to_pylist()
    assert (short["answer"], short["error"]) == ("food", None)
    assert long["answer"] is None
    assert "takes" in long["error"]


def test_chosen_draft_can_be_each_of_its_rows_own_answers_and_has_no_confidence(
    shown: Step, step_of: Callable[..., Step], begun: Callable[..., Step], asking: Callable[..., tuple[Any, Any]]
) -> None:
    letters = Task("letters", "Reply with a letter.", Choice(), max_tokens=16)
    rows = [
        {"id": "two", "question": "?", "options": ["x", "y"]},
        {"id": "three", "question": "?", "options": [*"xyz"]},
    ]
    pool = step_of("data/letters", schema.UNLABELED, rows)
    engine, asker = asking(lambda _: "Answer: B", of=letters)
    job = replace(_job(pool, shown, begun("drafts/x", pool.parts), None, 0), chosen=True)
    table = asyncio.run(draft_part(job, "part-00000", asker)).to_pylist()
    assert [r.sampling.choices for r in engine.requests] == [
        ("Answer: A", "Answer: B"),
        ("Answer: A", "Answer: B", "Answer: C"),
    ]
    assert [(r["answer"], r["mean_nll"], r["answer_nll"], r["error"]) for r in table] == [("B", None, None, None)] * 2


def test_draft_with_an_instruction_of_its_own_is_asked_with_that_one(
    pool: Step, shown: Step, begun: Callable[..., Step], asking: Callable[..., tuple[Any, Any]]
) -> None:
    engine, asker = asking(lambda _: "Answer: food")
    job = replace(_job(pool, shown, begun("drafts/x", pool.parts), None, 0), instruction="Name its kingdom.")
    asyncio.run(draft_part(job, "part-00001", asker))
    assert all("Name its kingdom." in prompt and "Say what it is." not in prompt for prompt in engine.prompts)
