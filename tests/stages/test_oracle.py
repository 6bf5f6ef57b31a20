"""The oracle's labels: the pool's own rows with their gold answers, all of them or none of a part."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from semievol_ray import schema
from semievol_ray.runs import Step
from semievol_ray.stages.ingest import Fold
from semievol_ray.stages.oracle import write_gold_labeled


@pytest.fixture(autouse=True)
def _mapped_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def map_parts(function: Callable[..., Any], parts: Sequence[str], **constants: Any) -> Iterator[Any]:
        return (function({"part": part}, **constants) for part in parts)

    monkeypatch.setattr("semievol_ray.stages.oracle.map_parts", map_parts)


def test_pool_rows_get_their_gold_answers_in_order(
    pool: Step, step_of: Callable[..., Step], begun: Callable[..., Step]
) -> None:
    words = ["plant", "food", "animal", "plant", "food"]
    gold = [{"id": f"r{i}", "answer": word} for i, word in enumerate(words)]
    step = begun("oracle/pool", pool.parts)
    assert write_gold_labeled(step, Fold(pool, step_of("data/gold", schema.GOLD, gold[:3], gold[3:]))) == 0
    rows = [row for part in step.parts for row in step.read_part(part, schema.LABELED).to_pylist()]
    assert [(row["id"], row["answer"]) for row in rows] == [(g["id"], g["answer"]) for g in gold]
    assert rows[4]["question"] == "thing number 4"


def test_part_with_an_unknown_answer_is_counted_and_not_committed(
    pool: Step, step_of: Callable[..., Step], begun: Callable[..., Step]
) -> None:
    gold = [{"id": f"r{i}", "answer": None if i in (1, 2) else "plant"} for i in range(5)]
    step = begun("oracle/pool", pool.parts)
    assert write_gold_labeled(step, Fold(pool, step_of("data/gold", schema.GOLD, gold[:3], gold[3:]))) == 2
    assert step.missing_parts() == pool.parts[:1]


def test_pool_that_lost_rows_takes_the_gold_answers_of_those_that_are_left(
    step_of: Callable[..., Step], begun: Callable[..., Step]
) -> None:
    left = step_of("data/distinct/unlabeled", schema.UNLABELED, [{"id": "r2", "num_copies": 1}], [])
    gold = [{"id": f"r{i}", "answer": word} for i, word in enumerate(["plant", None, "food"])]
    step = begun("oracle/pool", left.parts)
    assert write_gold_labeled(step, Fold(left, step_of("data/gold", schema.GOLD, gold, []))) == 0
    rows = [row for part in step.parts for row in step.read_part(part, schema.LABELED).to_pylist()]
    assert [(row["id"], row["answer"]) for row in rows] == [("r2", "food")]
