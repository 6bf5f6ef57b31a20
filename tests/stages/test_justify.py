"""Justifications: what M_warm sees of the drafts, the vote, and the one confidence of a round."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest

from semievol_ray import schema
from semievol_ray.engines.base import Sampling
from semievol_ray.runs import Step
from semievol_ray.stages.justify import Estimator, JustifyJob, justify_part

DRAFTED = [["food", "food"], ["food", "plant"], ["animal", None], [None, None], ["plant", "plant"]]
Asking = Callable[..., tuple[Any, Any]]


@pytest.fixture
def job_of(pool: Step, step_of: Callable[..., Step], begun: Callable[..., Step]) -> Callable[[Estimator], JustifyJob]:
    drafts = []
    for number in range(2):
        rows = [{"id": f"r{i}", "answer": answers[number]} for i, answers in enumerate(DRAFTED)]
        drafts.append(step_of(f"drafts/c{number}", schema.DRAFTS, rows[:3], rows[3:]))
    step = begun("justify", pool.parts)
    return lambda confidence: JustifyJob(step, pool, tuple(drafts), Sampling(0.0, 16), "warm", confidence)


def _rows(job: JustifyJob, asker: Any) -> list[dict[str, Any]]:
    return [row for part in job.pool.parts for row in asyncio.run(justify_part(job, part, asker)).to_pylist()]


def test_justification_sees_readable_answers_greedily_and_keeps_the_vote(
    job_of: Callable[[Estimator], JustifyJob], asking: Asking
) -> None:
    engine, asker = asking(lambda _: "Answer: plant")
    rows = _rows(job_of("mean_nll"), asker)
    assert [row["id"] for row in rows] == ["r0", "r1", "r2", "r3", "r4"]
    assert [row["answers"] for row in rows] == DRAFTED
    assert [row["vote"] for row in rows] == ["food", None, "animal", None, "plant"]
    assert [row["vote_share"] for row in rows] == [1.0, 0.0, 0.5, 0.0, 1.0]
    assert {(r.sampling.temperature, r.adapter) for r in engine.requests} == {(0.0, "warm")}
    proposed = {i: next(p for p in engine.prompts if f"number {i}" in p) for i in range(5)}
    assert "food, food" in proposed[0]
    assert "food" in proposed[1]
    assert "plant" in proposed[1]
    assert "animal" in proposed[2]
    assert "None" not in proposed[2] + proposed[3]
    assert "proposed" not in proposed[3]  # with no readable draft it is the plain question


def test_confidence_is_the_chosen_estimator_of_the_justification(
    job_of: Callable[[Estimator], JustifyJob], asking: Asking
) -> None:
    for chosen in ("mean_nll", "answer_nll"):
        rows = _rows(job_of(chosen), asking(lambda _: "Answer: plant")[1])
        assert [row["confidence"] for row in rows] == [row[chosen] for row in rows]
        assert all(row["confidence"] > 0 for row in rows)
    entropies = [row["confidence"] for row in _rows(job_of("vote_entropy"), asking(lambda _: "Answer: plant")[1])]
    assert entropies == pytest.approx([0, math.log(2), math.log(2), math.log(2), 0], abs=1e-6)


@pytest.mark.parametrize("confidence", ["mean_nll", "answer_nll", "vote_entropy"])
def test_row_without_a_readable_justification_has_no_confidence(
    confidence: Estimator, job_of: Callable[[Estimator], JustifyJob], asking: Asking
) -> None:
    rows = _rows(job_of(confidence), asking(lambda prompt: "no idea" if "number 1" in prompt else "Answer: food")[1])
    assert [row["confidence"] is None for row in rows] == [False, True, False, False, False]


@pytest.mark.parametrize("confidence", ["mean_nll", "answer_nll", "vote_entropy"])
def test_row_whose_justification_was_cut_off_has_an_answer_and_no_confidence(
    confidence: Estimator, job_of: Callable[[Estimator], JustifyJob], asking: Asking
) -> None:
    reply = ("Answer: food but", "length")
    rows = _rows(job_of(confidence), asking(lambda prompt: reply if "number 4" in prompt else "Answer: food")[1])
    assert (rows[4]["answer"], rows[4]["confidence"]) == ("food", None)
