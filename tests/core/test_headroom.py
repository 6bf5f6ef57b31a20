"""Head-room: the share of the gap is given exactly where method.md's rule allows it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from semievol_ray.core.headroom import head_room, share_closed


def _right(num_rows: int, num_right: int) -> NDArray[np.bool_]:
    return np.arange(num_rows) < num_right


@pytest.mark.parametrize(
    ("num_rows", "labels_only", "oracle", "exists"),
    [
        (1000, 500, 530, True),  # 3 points, every changed row for the better
        (1000, 500, 529, False),  # 2.9 points are too few, however sure
        (10_000, 5000, 5300, True),
        (20, 10, 11, False),  # 5 points on one row: the interval reaches 0
        (1000, 500, 400, False),  # an oracle below the labels
        (1000, 500, 500, False),
    ],
)
def test_head_room_needs_three_points_and_an_interval_above_zero(
    num_rows: int, labels_only: int, oracle: int, exists: bool
) -> None:
    assert head_room(_right(num_rows, oracle), _right(num_rows, labels_only)).exists is exists


def test_head_room_of_a_large_gap_that_noise_could_have_made_does_not_exist() -> None:
    right = np.random.default_rng(0)
    labels_only, oracle = right.random(60) < 0.5, right.random(60) < 0.5
    worse, better = sorted((labels_only, oracle), key=lambda rows: rows.mean())
    room = head_room(better, worse)
    assert room.gap.value >= 0.03
    assert room.gap.low <= 0
    assert not room.exists
    assert share_closed(room, 0.02) is None


@given(st.floats(-1, 1))
def test_share_closed_is_the_gain_in_units_of_the_gap(gain: float) -> None:
    room = head_room(_right(1000, 700), _right(1000, 500))
    assert share_closed(room, gain) == pytest.approx(gain / 0.2)
