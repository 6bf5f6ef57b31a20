"""What earlier engines of a run took to start."""

from typing import Any

from semievol_ray.stages.pace import engine_start_seconds


def event(kind: str, second: int, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "time": f"2026-11-21T12:00:{second:02d}+00:00", **more}


def started(second: int, name: str = "round-1 base", job: str = "drafts") -> dict[str, Any]:
    return event("session_started", second, session=name, jobs=[job])


def part(second: int, step: str = "drafts") -> dict[str, Any]:
    return event("part_committed", second, step=step)


def test_start_of_an_engine_is_the_shortest_way_to_a_first_part() -> None:
    ended = event("session_ended", 35, session="round-1 base")
    assert engine_start_seconds([started(0), part(30), part(31), ended, started(40), part(52)]) == 12


def test_start_that_another_driver_took_over_is_no_measurement() -> None:
    assert engine_start_seconds([started(0), event("run_started", 20), part(21)]) == 0


def test_start_is_told_apart_from_the_endpoint_that_is_asked_meanwhile() -> None:
    far = started(1, "round-1 endpoint far", "far")
    assert engine_start_seconds([started(0), far, part(3, "far"), part(30)]) == 30
