"""The rows of a round: what earlier rounds left, less what people labeled; and the dev fold, slice by slice."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from semievol_ray import schema
from semievol_ray.runs import Step
from semievol_ray.stages.context import Context
from semievol_ray.stages.ingest import Data, Fold
from semievol_ray.stages.pools import dev_slices, round_pool

StepOf = Callable[..., Step]
ContextOf = Callable[..., Context]
DEV = {"data": {"labeled": "l.csv", "unlabeled": "u.csv", "dev": 7}}
pytestmark = pytest.mark.usefixtures("mapped_here")


@pytest.fixture
def data(step_of: StepOf, pool: Step, labeled: Step) -> Data:
    """The pool r0 to r4, and seven dev rows in an order that is not that of their ids."""
    ids = ["d3", "d0", "d6", "d1", "d4", "d2", "d5"]
    dev = step_of("data/dev", schema.UNLABELED, [{"id": i} for i in ids[:4]], [{"id": i} for i in ids[4:]])
    return Data(labeled, Fold(pool, pool), None, Fold(dev, dev), None)


@pytest.fixture
def selecting(step_of: StepOf) -> Callable[..., Step]:
    """selecting(name, ids of part 0, ids of part 1, accepted=ids) -> a SELECTION step."""

    def make(name: str, *parts: list[str], accepted: set[str]) -> Step:
        kept = [[{"id": i, "decision": "accepted" if i in accepted else "uncertain"} for i in ids] for ids in parts]
        return step_of(name, schema.SELECTION, *kept)

    return make


def _ids(step: Step) -> list[list[str]]:
    return [step.read_part(part, schema.UNLABELED).column("id").to_pylist() for part in step.parts]


def test_first_round_answers_the_pool_itself(context_of: ContextOf, data: Data) -> None:
    assert round_pool(context_of(), 1, data, []) is data.pool.rows


def test_later_round_answers_what_no_earlier_round_accepted(
    context_of: ContextOf, data: Data, selecting: Callable[..., Step]
) -> None:
    context = context_of(method={"rounds": 3})
    first = selecting("s1", ["r0", "r1", "r2"], ["r3", "r4"], accepted={"r1", "r3"})
    assert _ids(round_pool(context, 2, data, [first])) == [["r0", "r2"], ["r4"]]
    second = selecting("s2", ["r0", "r2"], ["r4"], accepted={"r4"})
    assert _ids(round_pool(context, 3, data, [first, second])) == [["r0", "r2"], []]


def test_every_row_is_answered_again_where_asked(
    context_of: ContextOf, data: Data, selecting: Callable[..., Step]
) -> None:
    context = context_of(method={"rounds": {"num": 2, "reanswer": "all"}})
    first = selecting("s1", ["r0", "r1", "r2"], ["r3", "r4"], accepted={"r1", "r3"})
    assert round_pool(context, 2, data, [first]) is data.pool.rows


@pytest.mark.parametrize(("reanswer", "left"), [("rejected", [["r0"], ["r4"]]), ("all", [["r0", "r1"], ["r3", "r4"]])])
def test_row_that_a_person_labeled_leaves_from_the_round_that_knows_it(
    reanswer: str, left: list[list[str]], context_of: ContextOf, data: Data, step_of: StepOf,
    selecting: Callable[..., Step],
) -> None:  # fmt: skip
    people = step_of("data/annotations-0000", schema.LABELED, [{"id": "r2", "answer": "food"}])
    known = replace(data, annotations=((2, people),))
    context = context_of(method={"rounds": {"num": 2, "reanswer": reanswer}})
    assert round_pool(context, 1, known, []) is data.pool.rows
    first = selecting("s1", ["r0", "r1", "r2"], ["r3", "r4"], accepted={"r1", "r3"})
    assert _ids(round_pool(context, 2, known, [first])) == left


def test_dev_slices_are_equal_shares_by_id_whatever_the_order_of_the_rows(data: Data) -> None:
    assert data.dev is not None
    found = dev_slices(data.dev.rows, 3)
    assert found == {"d0": 1, "d1": 2, "d2": 3, "d3": 1, "d4": 2, "d5": 3, "d6": 1}


def test_dev_slice_leaves_once_its_round_is_over_and_accepted_rows_leave_with_it(
    context_of: ContextOf, data: Data, selecting: Callable[..., Step]
) -> None:
    context = context_of(**DEV, method={"rounds": 3})
    assert data.dev is not None
    assert round_pool(context, 1, data, [], dev=True) is data.dev.rows
    first = selecting("s1", ["d3", "d0", "d6", "d1"], ["d4", "d2", "d5"], accepted={"d4"})
    assert _ids(round_pool(context, 2, data, [first], dev=True)) == [["d1"], ["d2", "d5"]]


def test_dev_slices_leave_even_where_every_row_is_answered_again(
    context_of: ContextOf, data: Data, selecting: Callable[..., Step]
) -> None:
    context = context_of(**DEV, method={"rounds": {"num": 3, "reanswer": "all"}})
    first = selecting("s1", ["d3", "d0", "d6", "d1"], ["d4", "d2", "d5"], accepted={"d4"})
    assert _ids(round_pool(context, 3, data, [first], dev=True)) == [[], ["d2", "d5"]]


def test_pool_is_written_once_and_kept(context_of: ContextOf, data: Data, selecting: Callable[..., Any]) -> None:
    context = context_of(method={"rounds": 2})
    first = selecting("s1", ["r0", "r1", "r2"], ["r3", "r4"], accepted={"r0"})
    made = round_pool(context, 2, data, [first])
    assert round_pool(context, 2, data, [first]).digest() == made.digest()
