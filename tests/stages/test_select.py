"""Selection over the parts of a round: tau, and every row's one decision."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from semievol_ray import schema
from semievol_ray.errors import NothingAcceptedError
from semievol_ray.runs import Run, Step
from semievol_ray.stages.select import choose_threshold, decisions, select

Row = dict[str, Any]


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts are mapped here instead of in Ray Data tasks, the last one first."""

    def map_parts(function: Callable[..., Row], parts: Sequence[str], **constants: Any) -> Iterator[Row]:
        return (function({"part": part}, **constants) for part in reversed(parts))

    monkeypatch.setattr("semievol_ray.stages.select.map_parts", map_parts)


def _justified(step_of: Callable[..., Step], *rows: Row) -> Step:
    full = [{"id": f"r{i}", "answers": [], **row} for i, row in enumerate(rows)]
    return step_of("justify", schema.JUSTIFIED, full[:3], full[3:])


def _sure(*confidences: float) -> list[Row]:
    return [{"answer": "plant", "confidence": c} for c in confidences]


def test_tau_is_over_the_rows_of_all_parts_that_have_a_confidence(step_of: Callable[..., Step]) -> None:
    rows = [*_sure(0.5, 0.1, 0.4), {"answer": None}, *_sure(0.2)]
    chosen = choose_threshold(_justified(step_of, *rows), 0.5)
    assert (chosen.tau, chosen.num_answered, chosen.ties_points) == (pytest.approx(0.2), 4, 0)


def test_ties_at_tau_are_reported_in_points(step_of: Callable[..., Step]) -> None:
    chosen = choose_threshold(_justified(step_of, *_sure(0, 0, 0, 0, 1)), 0.2)
    assert (chosen.tau, chosen.ties_points) == (0, pytest.approx(60))


def test_round_without_any_confidence_is_refused(step_of: Callable[..., Step]) -> None:
    with pytest.raises(NothingAcceptedError, match="no row has a confidence"):
        choose_threshold(_justified(step_of, {"answer": None}, {"error": "too long"}), 0.5)


def test_every_row_gets_one_decision_in_the_order_of_its_pool(
    run: Run, pool: Step, step_of: Callable[..., Step], begun: Callable[..., Step]
) -> None:
    cut_off: Row = {"answer": "plant", "confidence": None}
    justified = _justified(step_of, *_sure(0.25, 0.375), {"answer": None}, {"error": "too long"}, cut_off)
    step = begun("select", pool.parts)
    counts: Counter[str] = Counter()
    select(step, pool, justified, 0.25, counts.update)
    run.commit(step, {})
    rows = [row for part in step.parts for row in step.read_part(part, schema.SELECTION).to_pylist()]
    assert [(r["id"], r["decision"]) for r in rows] == [
        ("r0", "accepted"), ("r1", "uncertain"), ("r2", "unreadable"), ("r3", "engine_error"), ("r4", "uncertain"),
    ]  # fmt: skip
    assert decisions(step) == counts == {"accepted": 1, "uncertain": 2, "unreadable": 1, "engine_error": 1}
    assert rows[1]["reason"] == "confidence 0.375 is above tau 0.250"
    assert "too long" in rows[3]["reason"]


def test_justifications_in_another_order_than_the_pool_are_not_committed(
    pool: Step, step_of: Callable[..., Step], begun: Callable[..., Step]
) -> None:
    rows = [{"id": f"r{i}", "answers": [], "answer": "plant", "confidence": 0.1} for i in (1, 0, 2, 3, 4)]
    step = begun("select", pool.parts)
    with pytest.raises(AssertionError, match="part-00000"):
        select(step, pool, step_of("justify", schema.JUSTIFIED, rows[:3], rows[3:]), 0.5, lambda _: None)
    assert not step.has_part("part-00000")
