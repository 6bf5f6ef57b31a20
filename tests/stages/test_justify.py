"""Justifications: what M_warm sees of the drafts, the vote, which label is kept, and the confidence of a round."""

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from semievol_ray import schema
from semievol_ray.core.answers import Choice, Number
from semievol_ray.engines.base import Sampling
from semievol_ray.methodconfig import Confidence
from semievol_ray.runs import Step
from semievol_ray.stages.justify import JustifyJob, candidates_of, justify_part
from semievol_ray.tasks import Task

DRAFTED = [["food", "food"], ["food", "plant"], ["animal", None], [None, None], ["plant", "plant"]]
Asking = Callable[..., tuple[Any, Any]]
JobOf = Callable[..., JustifyJob]


@pytest.fixture
def job_of(pool: Step, step_of: Callable[..., Step], begun: Callable[..., Step]) -> JobOf:
    """job_of(confidence, when=..., failed=ids of which every draft failed, cut_off=...) -> the job over DRAFTED.

    cut_off: id -> which of its drafts ended at max_tokens.
    """

    def make(
        confidence: Confidence,
        when: Any = "always",
        failed: tuple[str, ...] = (),
        cut_off: Mapping[str, tuple[bool, ...]] = MappingProxyType({}),
    ) -> JustifyJob:
        drafts = []
        for number in range(2):
            rows = [{"id": f"r{i}", "answer": answers[number]} for i, answers in enumerate(DRAFTED)]
            rows = [{**row, "error": "too long"} if row["id"] in failed else row for row in rows]
            ends = {row_id: "length" if of_row[number] else "stop" for row_id, of_row in cut_off.items()}
            rows = [{**row, "finish_reason": ends.get(str(row["id"]), "stop")} for row in rows]
            drafts.append(step_of(f"drafts/c{number}-{len(failed)}", schema.DRAFTS, rows[:3], rows[3:]))
        step = begun("justify", pool.parts)
        return JustifyJob(step, pool, tuple(drafts), Sampling(0.0, 16), "warm", confidence, when)

    return make


def _rows(job: JustifyJob, asker: Any) -> list[dict[str, Any]]:
    return [row for part in job.pool.parts for row in asyncio.run(justify_part(job, part, asker)).to_pylist()]


def _asked(engine: Any) -> set[str]:
    """The rows whose question was put to the engine for a completion."""
    return {f"r{i}" for i in range(5) if any(f"thing number {i}" in prompt for prompt in engine.prompts)}


def test_justification_sees_readable_answers_greedily_and_keeps_the_vote(job_of: JobOf, asking: Asking) -> None:
    engine, asker = asking(lambda _: "Answer: plant")
    rows = _rows(job_of("mean_nll"), asker)
    assert [row["id"] for row in rows] == ["r0", "r1", "r2", "r3", "r4"]
    assert [row["answers"] for row in rows] == DRAFTED
    assert [row["vote"] for row in rows] == ["food", None, "animal", None, "plant"]
    assert [row["vote_share"] for row in rows] == [1.0, 0.0, 0.5, 0.0, 1.0]
    assert {(row["label"], row["label_source"]) for row in rows} == {("plant", "justification")}
    assert {(r.sampling.temperature, r.adapter) for r in engine.requests} == {(0.0, "warm")}
    proposed = {i: next(p for p in engine.prompts if f"number {i}" in p) for i in range(5)}
    assert "food, food" in proposed[0]
    assert "food" in proposed[1]
    assert "plant" in proposed[1]
    assert "animal" in proposed[2]
    assert "None" not in proposed[2] + proposed[3]
    assert "proposed" not in proposed[3]  # with no readable draft it is the plain question


def _told(prompt: str) -> str:
    """The drafts' answers that a prompt tells of; nothing in the plain question."""
    return prompt.partition("Others answered: ")[2].partition(".")[0]


def test_answers_that_do_not_fit_beside_the_question_are_left_out_repeats_first(job_of: JobOf, asking: Asking) -> None:
    engine, asker = asking(lambda _: "Answer: plant")
    _rows(job_of("mean_nll"), asker)
    asked = list(zip(engine.prompts, engine.requests, strict=True))
    plain = next(len(request.prompt_ids) for prompt, request in asked if "number 3" in prompt)
    beside = plain + len(" Others answered: .")

    def asked_within(room: int) -> tuple[list[str], set[str | None]]:
        engine, narrow = asking(lambda _: "Answer: plant")
        rows = _rows(job_of("mean_nll"), replace(narrow, max_model_len=room + 16))  # 16 to answer
        found = {i: prompt for prompt in engine.prompts for i in range(5) if f"number {i}" in prompt}
        return [_told(found[i]) for i in sorted(found)], {row["error"] for row in rows}

    whole = _told(next(prompt for prompt in engine.prompts if "number 1" in prompt))
    assert set(whole.split(", ")) == {"food", "plant"}
    assert asked_within(beside + 11) == (["food, food", whole, "animal", "", "plant"], {None})
    assert asked_within(beside + 9) == (["food", whole.split(", ")[0], "animal", "", "plant"], {None})
    assert asked_within(beside + 3) == ([""] * 5, {None})
    assert asked_within(plain - 1)[1] == {
        f"the question alone takes {plain} tokens; numerics.max_model_len {plain + 15} less 16 to answer leaves "
        f"{plain - 1}"
    }


def test_split_asks_only_where_drafts_differ_and_keeps_the_vote_elsewhere(job_of: JobOf, asking: Asking) -> None:
    engine, asker = asking(lambda _: "Answer: animal")
    rows = _rows(job_of("scored_nll", "split"), asker)
    assert _asked(engine) == {"r1", "r2", "r3"}  # a draft that cannot be read is no agreement
    assert [(row["label"], row["label_source"]) for row in rows] == [
        ("food", "vote"), *[("animal", "justification")] * 3, ("plant", "vote"),
    ]  # fmt: skip
    assert [(row["text"], row["num_tokens"]) for row in rows if row["label_source"] == "vote"] == [(None, 0)] * 2


def test_never_keeps_every_vote_and_asks_for_no_completion(job_of: JobOf, asking: Asking) -> None:
    engine, asker = asking(lambda _: "Answer: animal")
    rows = _rows(job_of("vote_entropy", "never"), asker)
    assert engine.requests == []
    assert [row["label"] for row in rows] == [row["vote"] for row in rows] == ["food", None, "animal", None, "plant"]
    assert [row["label_source"] for row in rows] == ["vote", None, "vote", None, "vote"]
    assert [row["confidence"] is None for row in rows] == [False, True, False, True, False]


def test_split_does_not_fall_back_on_the_vote_where_the_justification_cannot_be_read(
    job_of: JobOf, asking: Asking
) -> None:
    rows = _rows(job_of("scored_nll", "split"), asking(lambda _: "no idea")[1])
    assert (rows[2]["vote"], rows[2]["label"], rows[2]["label_source"]) == ("animal", None, None)


def test_row_whose_drafts_all_failed_is_an_error_where_nothing_is_justified(job_of: JobOf, asking: Asking) -> None:
    rows = _rows(job_of("vote_entropy", "never", failed=("r3",)), asking(lambda _: "Answer: food")[1])
    assert [row["error"] for row in rows] == [None, None, None, "too long", None]


def test_confidence_is_the_chosen_estimator_of_the_justification(job_of: JobOf, asking: Asking) -> None:
    for chosen in ("mean_nll", "answer_nll"):
        rows = _rows(job_of(chosen), asking(lambda _: "Answer: plant")[1])
        assert [row["confidence"] for row in rows] == [row[chosen] for row in rows]
        assert all(row["confidence"] > 0 for row in rows)
    entropies = [row["confidence"] for row in _rows(job_of("vote_entropy"), asking(lambda _: "Answer: plant")[1])]
    assert entropies == pytest.approx([0, math.log(2), math.log(2), math.log(2), 0], abs=1e-6)


def test_scored_nll_is_of_the_kept_answer_after_the_plain_question_whatever_its_source(
    job_of: JobOf, asking: Asking
) -> None:
    engine, asker = asking(lambda _: "I think\nAnswer: animal")
    rows = _rows(job_of("scored_nll", "split"), asker)
    forced = {asker.engine.tokenizer.decode(s.answer_ids): len(s.answer_ids) for s in engine.scored}
    assert forced == {f"Answer: {label}": len(f"Answer: {label}") for label in ("food", "animal", "plant")}
    prompts = [asker.engine.tokenizer.decode(s.prompt_ids) for s in engine.scored]
    assert not [prompt for prompt in prompts if "proposed" in prompt or "Answer:" in prompt.rpartition("<user>")[2]]
    assert {s.adapter for s in engine.scored} == {"warm"}
    for row in rows:  # the fake engine's token i has -(i + 1) / 4
        assert row["confidence"] == pytest.approx((len(f"Answer: {row['label']}") + 1) / 8)


def test_answer_posterior_is_the_kept_answers_share_of_all_candidates_with_their_end(
    job_of: JobOf, asking: Asking
) -> None:
    engine, asker = asking(lambda _: "Answer: animal")
    rows = _rows(job_of("answer_posterior", "never"), asker)
    assert len(engine.scored) == 3 * 3  # three rows have a vote, and the task three labels
    lengths = [len(f"Answer: {label}") + 1 for label in ("plant", "animal", "food")]
    totals = -np.array([n * (n + 1) / 8 for n in lengths])
    expected = -(totals - np.log(np.exp(totals).sum()))
    assert rows[0]["confidence"] == pytest.approx(expected[2], rel=1e-5)
    assert rows[4]["confidence"] == pytest.approx(expected[0], rel=1e-5)


def test_answer_that_does_not_fit_the_model_again_has_no_confidence(job_of: JobOf, asking: Asking) -> None:
    _, asker = asking(lambda _: "Answer: animal")
    for chosen in ("scored_nll", "answer_posterior"):
        rows = _rows(job_of(chosen, "never"), replace(asker, max_model_len=30))
        assert (rows[0]["label"], rows[0]["confidence"]) == ("food", None)


@pytest.mark.parametrize("confidence", ["mean_nll", "answer_nll", "scored_nll", "vote_entropy", "answer_posterior"])
def test_row_without_a_readable_justification_has_no_confidence(
    confidence: Confidence, job_of: JobOf, asking: Asking
) -> None:
    rows = _rows(job_of(confidence), asking(lambda prompt: "no idea" if "number 1" in prompt else "Answer: food")[1])
    assert [row["confidence"] is None for row in rows] == [False, True, False, False, False]


@pytest.mark.parametrize("confidence", ["mean_nll", "answer_nll", "scored_nll", "vote_entropy", "answer_posterior"])
def test_row_whose_justification_was_cut_off_has_an_answer_and_no_confidence(
    confidence: Confidence, job_of: JobOf, asking: Asking
) -> None:
    reply = ("Answer: food but", "length")
    rows = _rows(job_of(confidence), asking(lambda prompt: reply if "number 4" in prompt else "Answer: food")[1])
    assert (rows[4]["answer"], rows[4]["label"], rows[4]["confidence"]) == ("food", "food", None)


@pytest.mark.parametrize("confidence", ["scored_nll", "vote_entropy", "answer_posterior"])
@pytest.mark.parametrize("when", ["never", "split"])
def test_vote_that_only_drafts_cut_off_at_their_end_gave_has_no_confidence(
    confidence: Confidence, when: Any, job_of: JobOf, asking: Asking
) -> None:
    cut_off = {"r0": (True, True), "r4": (True, False)}
    rows = _rows(job_of(confidence, when, cut_off=cut_off), asking(lambda _: "Answer: food")[1])
    kept = {row["id"]: row for row in rows if row["label_source"] == "vote"}
    assert (kept["r0"]["label"], kept["r0"]["confidence"]) == ("food", None)
    assert kept["r4"]["label"] == "plant"
    assert kept["r4"]["confidence"] is not None


def test_candidates_are_the_labels_or_the_letters_of_the_options(task: Task) -> None:
    assert candidates_of(task, None) == ["plant", "animal", "food"]
    assert candidates_of(replace(task, format=Choice()), ["x", "y", "z"]) == ["A", "B", "C"]
    with pytest.raises(ValueError, match="no closed set"):
        candidates_of(replace(task, format=Number()), None)
