"""Isolation on paper: simulated engines that bad rows end, and what is known after each death."""

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from semievol_ray.stages.isolation import plan
from semievol_ray.stages.ledger import End, Try, suspicion

Rows = tuple[int, int]


def _suspected(made: list[Try]) -> Callable[[Rows], float]:
    return lambda rows: suspicion(made, rows, 1)


def _searched(num_rows: int, bad: set[int], end: End | None = "engine") -> tuple[set[int], set[int], list[Try]]:
    """(rows answered, rows given up, tries) of a search that goes on until no try ends the engine."""
    made: list[Try] = []
    while True:
        spans, given_up = plan(num_rows, _suspected(made))
        answered = set[int]()
        for first, last in spans:
            if bad & set(range(first, last)):
                made.append(Try(1, (first, last), end))
                break
            made.append(Try(1, (first, last), "done"))
            answered |= set(range(first, last))
        else:
            return answered, set(given_up), made


@given(st.integers(1, 70), st.data())
@settings(max_examples=60, deadline=None)
def test_plan_gives_up_exactly_the_rows_that_end_engines(num_rows: int, data: st.DataObject) -> None:
    bad = data.draw(st.sets(st.integers(0, num_rows - 1), max_size=4))
    answered, given_up, _ = _searched(num_rows, bad)
    assert given_up == bad
    assert answered == set(range(num_rows)) - bad


@given(st.integers(0, 2047))
@settings(max_examples=20, deadline=None)
def test_plan_finds_one_bad_row_of_2048_in_one_death_a_level_and_one_more(bad: int) -> None:
    _, _, made = _searched(2048, {bad})
    assert sum(one.end == "engine" for one in made) == 11 + 1
    answered = sum(one.rows[1] - one.rows[0] for one in made if one.end == "done" and one.rows)
    assert answered <= 2 * 2048  # what is innocent is answered about once more, not once a level


def test_row_whose_deaths_nobody_could_tell_of_is_given_up_after_four() -> None:
    _, given_up, made = _searched(1, {0}, end=None)
    assert given_up == {0}
    assert len(made) == 4


def test_suspicion_of_machines_that_left_or_lacked_memory_is_none() -> None:
    made = [Try(1, None, "left"), Try(1, None, "memory"), Try(1, None, "left")]
    assert suspicion(made, None, 1) == 0


def test_suspicion_of_a_process_gone_with_its_driver_is_none_but_of_one_whose_driver_went_on() -> None:
    assert suspicion([Try(1, None, "vanished"), Try(2, None, "vanished")], None, 3) == 0
    assert suspicion([Try(1, None, "vanished"), Try(1, None, "vanished")], None, 3) == 1
    assert suspicion([Try(1, None, "vanished")], None, 1) == 1


def test_suspicion_by_an_engine_error_or_a_stall_outlives_its_driver() -> None:
    assert suspicion([Try(1, None, "engine"), Try(2, None, "stalled")], None, 3) == 2


def test_suspicion_of_unexplained_ends_needs_twice_as_many() -> None:
    assert suspicion([Try(1, None, None)] * 3, None, 1) == 1.5
    assert suspicion([Try(1, None, None)] * 3, None, 2) == 1.0  # the last may have ended with its driver


def test_suspicion_of_a_whole_part_is_not_that_of_its_rows() -> None:
    made = [Try(1, None, "engine"), Try(1, (0, 4), "engine")]
    assert suspicion(made, (0, 4), 1) == 1
    assert suspicion(made, None, 1) == 1
