"""Moments as people write them."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol_ray.core.moments import moment, shown

NOON = datetime(2026, 11, 21, 12, 0).timestamp()


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("22:00", datetime(2026, 11, 21, 22, 0)),
        ("9:30", datetime(2026, 11, 22, 9, 30)),
        ("12:00", datetime(2026, 11, 22, 12, 0)),
        ("12:00:01", datetime(2026, 11, 21, 12, 0, 1)),
        ("+3h", datetime(2026, 11, 21, 15, 0)),
        ("+1h30m", datetime(2026, 11, 21, 13, 30)),
        ("+1.5d", datetime(2026, 11, 23, 0, 0)),
        ("2026-11-22T06:00", datetime(2026, 11, 22, 6, 0)),
    ],
)
def test_moment_is_the_one_that_is_meant(text: str, when: datetime) -> None:
    assert moment(text, NOON) == when.timestamp()


def test_moment_with_a_zone_is_the_same_everywhere() -> None:
    assert moment("2026-11-22T06:00+00:00", NOON) == 1795327200.0
    assert moment("2026-11-22T07:00+01:00", NOON) == 1795327200.0


@pytest.mark.parametrize("text", ["", "soon", "25:00", "22:61", "+", "+3", "3h", "+3x", "2026-13-01T00:00", "+1..5h"])
def test_what_is_no_moment_is_none(text: str) -> None:
    assert moment(text, NOON) is None


@given(st.floats(1e9, 4e9), st.integers(0, 23), st.integers(0, 59))
def test_time_of_day_is_the_next_such_moment(now: float, hour: int, minute: int) -> None:
    found = moment(f"{hour}:{minute:02d}", now)
    assert found is not None
    assert 0 < found - now <= 25 * 3600  # a day, and the hour that a change of clocks adds
    assert (datetime.fromtimestamp(found).hour, datetime.fromtimestamp(found).minute) == (hour, minute)


def test_moment_is_shown_with_its_date_on_another_day_only() -> None:
    assert shown(NOON + 3600, NOON) == "13:00"
    assert shown(NOON + 86400 + 5, NOON) == "2026-11-22 12:00:05"
