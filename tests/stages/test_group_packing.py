"""What is said of engine groups before they start."""

from typing import Any

import pytest

from semievol_ray.placement import Node, Replicas, Resources
from semievol_ray.stages.packing import PackedGroup, packing_lines, rate_before

GPUS = Resources((Node(32, 8),) * 2)


def _part(step: str, replica: str, second: int, rows: int = 40, seconds: float = 10.0) -> dict[str, Any]:
    time = f"2026-01-01T10:00:{second:02d}+00:00"
    return {"kind": "part_committed", "step": step, "replica": replica, "time": time, "num_rows": rows,
            "seconds": seconds}  # fmt: skip


def test_groups_are_told_with_what_they_take_and_the_pace_of_before() -> None:
    base = PackedGroup("round-2 base", Replicas(4, 1, 4, 1), 8000, 2.5)
    warm = PackedGroup("round-2 warm", Replicas(16, 1, 1, 1), 3200, None)
    assert packing_lines([[base], [warm]], [], GPUS) == [
        "engines: round-2 base: 4 x 4 GPUs, 16 of 16 GPUs, 8,000 answers, about 10 answers/s (2.5 an engine before)",
        "engines: round-2 warm: 16 x 1 GPU, 16 of 16 GPUs, 3,200 answers, its pace not known yet",
        "engines: 2 groups one after the other, one start each",
    ]


def test_time_of_all_groups_is_told_where_every_pace_is_known() -> None:
    group = PackedGroup("round-2 base", Replicas(1, 2, 0, 2), 120, 2.0)
    lines = packing_lines([[group], [group]], [], Resources((Node(2, 0),)))
    assert "1 x 2 CPUs, 2 of 2 CPUs" in lines[0]
    assert lines[-1].endswith("about 2m00s without starts")
    assert packing_lines([], [], GPUS) == []


def test_group_behind_an_endpoint_is_told_to_run_beside_the_others() -> None:
    near = PackedGroup("round-2 base", Replicas(16, 1, 1, 1), 8000, 2.5)
    far = PackedGroup("round-2 endpoint", Replicas(1, 0, 0, 1), 1000, 2.0)
    lines = packing_lines([[near], [near]], [far], GPUS)
    assert lines[0] == "engines: round-2 endpoint: elsewhere, 1,000 answers, about 2 answers/s (2 an engine before)"
    assert lines[-1] == (
        "engines: 2 groups one after the other, one start each, and beside them 1 behind an endpoint, "
        "about 8m20s without starts"
    )


def test_groups_of_one_turn_take_as_long_as_the_slowest_of_them() -> None:
    short, long = (PackedGroup("round-2", Replicas(2, 1, 1, 1), rows, 2.0) for rows in (400, 800))
    assert packing_lines([[short, long]], [], GPUS)[-1] == (
        "engines: 2 groups at once, one start each, about 3m20s without starts"
    )
    assert packing_lines([[short, long], [short]], [], GPUS)[-1] == (
        "engines: 3 groups in 2 turns, those of a turn at once, one start each, about 5m00s without starts"
    )


def test_one_group_and_endpoints_alone_are_told_as_such() -> None:
    near, far = (
        PackedGroup("round-2 base", Replicas(2, 1, 1, 1), 4, None),
        PackedGroup("far", Replicas(1, 0, 0, 1), 4, None),
    )
    assert packing_lines([[near]], [far, far], GPUS)[-1] == "engines: 1 group, and beside it 2 behind endpoints"
    assert packing_lines([], [far, far], GPUS)[-1] == "engines: 2 behind endpoints, at once"


def test_rate_is_that_of_one_engine_in_the_same_steps_of_earlier_rounds() -> None:
    step, other = "rounds/0001/drafts/base_1", "rounds/0001/drafts/warm_0"
    events = [_part(step, "a", 10), _part(step, "a", 20), _part(step, "b", 10), _part(other, "c", 10, rows=1)]
    assert rate_before(events, ["rounds/0002/drafts/base_1"]) == pytest.approx(120 / 30)
    assert rate_before(events, ["rounds/0002/justify"]) is None
