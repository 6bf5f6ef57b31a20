"""Selection over the parts of a round: every row's one decision by the round's cuts."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from semievol_ray import schema
from semievol_ray.core.selection import Cut
from semievol_ray.errors import StorageError
from semievol_ray.runs import Run, Step
from semievol_ray.stages.select import Answered, Cuts, select

Row = dict[str, Any]
pytestmark = pytest.mark.usefixtures("mapped_here")


def _answered(step_of: Callable[..., Step], pool: Step, *rows: Row) -> Answered:
    full = [{"id": f"r{i}", "answers": [], "vote_share": 0.5, **row} for i, row in enumerate(rows)]
    return Answered(pool, step_of("justify", schema.JUSTIFIED, full[:3], full[3:]))


def _sure(*confidences: float) -> list[Row]:
    return [{"label": "plant", "confidence": c} for c in confidences]


def _selected(step: Step, answered: Answered, cuts: Cuts) -> list[Row]:
    select(step, answered, cuts, lambda _: None)
    return [row for part in step.parts for row in step.read_part(part, schema.SELECTION).to_pylist()]


def test_every_row_gets_one_decision_in_the_order_of_its_pool(
    run: Run, pool: Step, step_of: Callable[..., Step], begun: Callable[..., Step]
) -> None:
    cut_off: Row = {"label": "plant", "confidence": None}
    answered = _answered(step_of, pool, *_sure(0.25, 0.375), {"label": None}, {"error": "too long"}, cut_off)
    step = begun("select", pool.parts)
    counts: Counter[str] = Counter()
    select(step, answered, Cuts("global", {"": Cut(0.25)}), counts.update)
    run.commit(step, {})
    rows = [row for part in step.parts for row in step.read_part(part, schema.SELECTION).to_pylist()]
    assert [(r["id"], r["decision"]) for r in rows] == [
        ("r0", "accepted"), ("r1", "uncertain"), ("r2", "unreadable"), ("r3", "engine_error"), ("r4", "uncertain"),
    ]  # fmt: skip
    assert counts == {"accepted": 1, "uncertain": 2, "unreadable": 1, "engine_error": 1}
    assert rows[1]["reason"] == "confidence 0.375 is above tau 0.250"
    assert "too long" in rows[3]["reason"]


def test_row_is_cut_by_its_own_answer_and_told_so(
    pool: Step, step_of: Callable[..., Step], begun: Callable[..., Step]
) -> None:
    rows: list[Row] = [{"label": label, "confidence": 0.5} for label in ("plant", "food", "food", "plant", "food")]
    cuts = Cuts("per_answer", {"plant": Cut(0.25), "food": Cut(0.5)})
    found = _selected(begun("select", pool.parts), _answered(step_of, pool, *rows), cuts)
    assert [r["decision"] for r in found] == ["uncertain", "accepted", "accepted", "uncertain", "accepted"]
    assert found[0]["reason"] == "confidence 0.500 is above tau 0.250 (answer plant)"


def test_row_is_cut_by_the_group_it_has_in_the_pool(step_of: Callable[..., Step], begun: Callable[..., Step]) -> None:
    groups = ["law", "art", "law", "art", None]
    rows = [{"id": f"r{i}", "question": "q", "group": group} for i, group in enumerate(groups)]
    pool = step_of("data/grouped", schema.UNLABELED, rows[:3], rows[3:])
    cuts = Cuts("per_group", {"law": Cut(0.25), "art": Cut(0.5), "": Cut(0.5)})
    found = _selected(begun("select", pool.parts), _answered(step_of, pool, *_sure(*[0.5] * 5)), cuts)
    assert [r["decision"] for r in found] == ["uncertain", "accepted", "uncertain", "accepted", "accepted"]


def test_row_that_passes_tau_and_not_its_quota_is_told_which(
    pool: Step, step_of: Callable[..., Step], begun: Callable[..., Step]
) -> None:
    cuts = Cuts("global", {"": Cut(0.5)}, {"plant": Cut(0.125)})
    found = _selected(begun("select", pool.parts), _answered(step_of, pool, *_sure(0.0, 0.25, 0.125, 0.5, 0.75)), cuts)
    assert [r["decision"] == "accepted" for r in found] == [True, False, True, False, False]
    assert found[1]["reason"] == "confidence 0.250 is above tau 0.125 (quota of plant)"
    assert found[4]["reason"] == "confidence 0.750 is above tau 0.500"


def test_answer_that_no_pool_row_gave_is_uncertain_on_dev(
    pool: Step, step_of: Callable[..., Step], begun: Callable[..., Step]
) -> None:
    rows: list[Row] = [{"label": label, "confidence": 0.0} for label in ("plant", "food", "food", "plant", "food")]
    found = _selected(
        begun("dev/select", pool.parts), _answered(step_of, pool, *rows), Cuts("per_answer", {"plant": Cut(0.5)})
    )
    assert [r["decision"] for r in found] == ["accepted", "uncertain", "uncertain", "accepted", "uncertain"]


def test_justifications_in_another_order_than_the_pool_are_not_committed(
    pool: Step, step_of: Callable[..., Step], begun: Callable[..., Step]
) -> None:
    rows = [{"id": f"r{i}", "answers": [], "label": "plant", "confidence": 0.1} for i in (1, 0, 2, 3, 4)]
    answered = Answered(pool, step_of("justify", schema.JUSTIFIED, rows[:3], rows[3:]))
    step = begun("select", pool.parts)
    with pytest.raises(StorageError, match="r1 in it and r0 in the other, so its rows are in another order"):
        select(step, answered, Cuts("global", {"": Cut(0.5)}), lambda _: None)
    assert not step.has_part("part-00000")


def test_row_without_a_label_is_told_whether_its_vote_was_tied_or_nothing_could_be_read(
    pool: Step, step_of: Callable[..., Step], begun: Callable[..., Step]
) -> None:
    tie: Row = {"answers": ["plant", "food"], "label": None}
    silent: Row = {"answers": [None, None], "label": None}
    justified: Row = {**tie, "finish_reason": "stop"}
    answered = _answered(step_of, pool, tie, silent, justified, *_sure(0.25), {**tie, "error": "too long"})
    found = _selected(begun("select", pool.parts), answered, Cuts("global", {"": Cut(0.25)}))
    assert [r["decision"] for r in found] == ["unreadable"] * 3 + ["accepted", "engine_error"]
    assert found[0]["reason"] == "the drafts were tied: no answer was given more often than every other"
    assert [r["reason"] for r in found[1:3]] == ["no answer could be read"] * 2
    assert found[4]["reason"] == "the engine could not answer: too long"
