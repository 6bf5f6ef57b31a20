"""The engine sessions that events tell of, at once and one after another."""

from typing import Any

from semievol_ray.sessions import EngineSession, engine_sessions, of_the_run


def event(kind: str, second: int, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "time": f"2026-11-21T12:00:{second:02d}+00:00", **more}


def started(second: int, name: str) -> dict[str, Any]:
    return event("session_started", second, session=name, jobs=[f"{name}/1", f"{name}/2"])


def told(session: EngineSession) -> tuple[str, float, bool, list[str]]:
    return session.name, session.seconds, session.is_whole, [report["part"] for report in session.reports]


def part(second: int, step: str, name: str) -> dict[str, Any]:
    return event("part_committed", second, step=step, part=name)


def test_sessions_at_once_have_their_own_ends_and_parts() -> None:
    events = [
        started(0, "a"), started(1, "b"), part(2, "b/1", "p"), part(3, "a/2", "q"),
        event("session_ended", 4, session="b"), part(5, "a/1", "r"), event("session_ended", 9, session="a"),
    ]  # fmt: skip
    assert [told(of) for of in engine_sessions(events)] == [("a", 9.0, True, ["q", "r"]), ("b", 3.0, True, ["p"])]


def test_session_that_was_cut_off_ends_with_what_its_driver_did_last() -> None:
    events = [started(0, "a"), part(5, "a/1", "p"), event("run_started", 30), started(31, "a"), part(33, "a/1", "q")]
    cut_off, working = engine_sessions(events)
    assert told(cut_off) == ("a", 5.0, False, ["p"])
    assert (working.ended, working.seconds) == (None, 0.0)


def test_what_commands_did_with_a_run_later_is_not_the_runs() -> None:
    attempts = [
        event("run_started", i, **more) for i, more in enumerate(({}, {"command": "label"}, {"command": "run"}))
    ]
    events = [of for i, start in enumerate(attempts) for of in (start, event("part_committed", i))]
    assert list(of_the_run(events)) == [*events[:2], *events[4:]]
