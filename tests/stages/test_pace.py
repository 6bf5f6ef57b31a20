"""What earlier engines of a run took to start."""

from semievol_ray.stages.pace import engine_start_seconds


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
