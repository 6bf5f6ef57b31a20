"""What earlier engines and fine-tunings of a run took."""

import pytest

from semievol_ray.stages.pace import engine_start_seconds, training_seconds


def event(kind: str, second: int) -> dict[str, str]:
    return {"kind": kind, "time": f"2026-11-21T12:00:{second:02d}+00:00"}


def test_start_of_an_engine_is_the_shortest_way_to_a_first_part() -> None:
    events = [
        event("session_started", 0), event("part_committed", 30), event("part_committed", 31),
        event("session_started", 40), event("part_committed", 52),
    ]  # fmt: skip
    assert engine_start_seconds(events) == 12


def test_start_that_another_driver_took_over_is_no_measurement() -> None:
    events = [event("session_started", 0), event("run_started", 20), event("part_committed", 21)]
    assert engine_start_seconds(events) == 0


def test_training_takes_its_examples_times_those_of_the_largest_before() -> None:
    def done(num_rows: int, seconds: float) -> dict[str, object]:
        return {"committed": {"num_rows": num_rows, "seconds": seconds}}

    records = {
        "rounds/0000/examples": done(10, 0.1), "rounds/0000/train": done(0, 30.0),
        "rounds/0001/examples": done(100, 0.1), "rounds/0001/train": done(0, 100.0),
        "rounds/0002/examples": done(500, 0.1), "rounds/0002/train": {},
    }  # fmt: skip
    assert training_seconds(records, 500) == pytest.approx(500.0)
    assert training_seconds({}, 500) is None
