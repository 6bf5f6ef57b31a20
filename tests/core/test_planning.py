"""Plans added up by hand, and the number of replicas for a time."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol_ray.core.planning import Rate, Span, Totals, Work, around, planned, replicas_for, totals

WORKS = [
    Work("rounds/0001/retrieve", "rounds/0001/retrieve", 100, 100, 4),
    Work("rounds/0001/drafts/a", "round-1 warm engine", 100, 100, 4, "warm"),
    Work("rounds/0001/justify", "round-1 warm engine", 100, 100, 4, "warm"),
]
RATES = {
    "rounds/0001/retrieve": Rate(around(5.0, 0.2), around(0.01, 0.1), row_bytes=50, fixed_bytes=1000),
    "rounds/0001/drafts/a": Rate(seconds=around(0.4, 0.1), prompt_tokens=300, tokens=10, part_files=2),
    "rounds/0001/justify": Rate(seconds=around(0.2, 0.1), prompt_tokens=500, tokens=20, token_price=0.001),
}
STARTS = {"round-1 warm engine": around(30.0, 0.5)}


SHARES = {"rounds/0001/drafts/a": 4, "rounds/0001/justify": 4}


def test_plan_divides_the_work_of_engines_and_nothing_else() -> None:
    steps, units = planned(WORKS, RATES, STARTS, SHARES)
    assert [unit.name for unit in units] == ["rounds/0001/retrieve", "round-1 warm engine"]
    assert [unit.seconds.point for unit in units] == pytest.approx([6.0, 30 + 10 + 5])
    assert (units[1].seconds.low, units[1].seconds.high) == pytest.approx((15 + 13.5, 45 + 16.5))
    whole = totals(steps, units, WORKS, RATES, SHARES, 4, around(10.0, 0.0))
    assert whole.seconds.point == pytest.approx(61.0)
    assert (whole.prompt_tokens, whole.tokens, whole.num_bytes) == (80_000, 3_000, 6_000)
    assert whole.num_files == 3 * 2 + 4 + 8 + 4
    assert (whole.engine_seconds, whole.money) == pytest.approx((60.0, 0.1))


def test_plan_divides_retrieval_among_its_embedders_which_come_with_engines() -> None:
    shares = {**SHARES, "rounds/0001/retrieve": 2}  # an embedder to every second engine

    steps, units = planned(WORKS, RATES, STARTS, shares)
    whole = totals(steps, units, WORKS, RATES, shares, 4)

    assert units[0].seconds.point == pytest.approx(5.0 + 1.0 / 2)
    assert whole.engine_seconds == pytest.approx(60.0 + 1.0 / 2 * 4)
    assert replicas_for(whole.seconds.point, whole, 4) == 4
    assert replicas_for(35.0 + 62.0 / 8, whole, 4) == 8  # 5 s of retrieval and 30 s of a start stay


def test_no_number_of_replicas_shortens_what_engines_do_not_do() -> None:
    found = Totals(Span(0, 100.0, 0), 40.0, 0, 0, 0, 0, 0, 0)
    assert replicas_for(60.0, found, 1) is None
    assert replicas_for(61.0, found, 1) == 40


@given(st.floats(1, 1e6), st.floats(0, 1e4), st.integers(1, 64), st.floats(1, 1e5))
def test_replicas_for_a_time_are_the_fewest_that_do(work: float, fixed: float, at: int, limit: float) -> None:
    found = Totals(Span(0, fixed + work / at, 0), work, 0, 0, 0, 0, 0, 0)
    num = replicas_for(limit, found, at)
    if num is None:
        assert limit - fixed <= 1e-6 * (fixed + work)
        return
    slack = 1e-6 * limit
    assert fixed + work / num <= limit + slack or math.isclose(fixed + work / num, limit, rel_tol=1e-3)
    assert num == 1 or fixed + work / (num - 1) > limit - slack
