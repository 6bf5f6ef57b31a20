"""An engine's pace while it is full, against schedules whose pace is known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol_ray.core.saturation import Piece, while_full


def waves(num: int, slots: int, rows: int = 32, seconds: float = 1.0) -> list[Piece]:
    """Parts done `slots` at a time, each in the same seconds."""
    return [
        Piece("draft", f"part-{i}", rows, (i // slots) * seconds, (i // slots + 1) * seconds) for i in range(num)
    ]  # fmt: skip


@pytest.mark.parametrize("num", [2, 6, 7, 63])
def test_pace_of_equal_parts_does_not_depend_on_how_many_the_pilot_had(num: int) -> None:
    assert while_full(waves(num, 2)).row_seconds == pytest.approx({"draft": 1 / 64})


def test_window_leaves_the_last_lone_part_out() -> None:
    found = while_full(waves(7, 2))
    assert (found.began, found.ended) == (0.0, 3.0)


def test_two_kinds_under_way_at_once_share_the_engine_by_their_rows() -> None:
    pieces = [Piece("draft", "a", 30, 0, 1), Piece("evaluate", "b", 10, 0, 1)]
    assert while_full(pieces).row_seconds == pytest.approx({"draft": 1 / 40, "evaluate": 1 / 40})


def test_steps_of_one_call_after_each_other_each_have_their_time() -> None:
    pieces = [Piece("draft", "a", 10, 0, 3), Piece("justify", "a", 10, 3, 4)]
    assert while_full(pieces).row_seconds == pytest.approx({"draft": 0.3, "justify": 0.1})


def test_gaps_between_parts_are_part_of_the_pace() -> None:
    pieces = [Piece("draft", "a", 10, 0, 1), Piece("draft", "b", 10, 2, 3)]
    assert while_full(pieces).row_seconds == pytest.approx({"draft": 0.15})


PIECES = st.lists(
    st.tuples(st.sampled_from(["draft", "justify"]), st.integers(1, 9), st.floats(0, 50), st.floats(0.1, 20)),
    min_size=1,
    max_size=12,
)


@given(PIECES)
def test_seconds_of_all_rows_in_the_window_are_the_window(drawn: list[tuple[str, int, float, float]]) -> None:
    pieces = [Piece(kind, str(i), rows, at, at + long) for i, (kind, rows, at, long) in enumerate(drawn)]
    found = while_full(pieces)
    done = dict.fromkeys(found.row_seconds, 0.0)
    for p in pieces:
        done[p.kind] += p.rows * max(0.0, min(p.ended, found.ended) - max(p.began, found.began)) / (p.ended - p.began)
    inside = {kind: rows for kind, rows in done.items() if rows > 1e-9}
    spent = sum(found.row_seconds[kind] * rows for kind, rows in inside.items())
    assert spent == pytest.approx(found.ended - found.began, rel=1e-6)
