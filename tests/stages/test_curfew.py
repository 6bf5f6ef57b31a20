"""Parts against a deadline, by a clock that a test sets, and by Ray's actors."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from semievol_ray import schema
from semievol_ray.core.answers import Labels
from semievol_ray.engines.base import EngineSpec, Sampling
from semievol_ray.placement import Replicas
from semievol_ray.runs import Run, Step
from semievol_ray.stages import ledger
from semievol_ray.stages.curfew import Curfew
from semievol_ray.stages.draft import DraftJob
from semievol_ray.stages.jobs import PartReport, Session
from semievol_ray.stages.patience import Patience
from semievol_ray.stages.session import run_session
from semievol_ray.stages.supervision import Heard
from semievol_ray.stages.worker import EngineWorker
from semievol_ray.tasks import Task

TASK = Task("kinds", "Say what it is.", Labels(("plant", "animal", "food")), max_tokens=16)


class Clock:
    """Seconds that pass when work is done."""

    def __init__(self) -> None:
        self.now = 0.0

    def taking(self, seconds: float) -> Callable[[], Awaitable[str]]:
        async def work() -> str:
            self.now += seconds
            return "done"

        return work


def test_part_that_would_end_after_the_deadline_is_not_begun() -> None:
    clock = Clock()
    curfew = Curfew(100.0, lambda: clock.now)

    async def parts() -> list[str | None]:
        return [await curfew.kept("draft", clock.taking(seconds)) for seconds in (30.0, 40.0, 30.0, 5.0)]

    assert asyncio.run(parts()) == ["done", "done", None, None]  # at 70 s the longest so far, 40 s, does not fit
    assert clock.now == 70.0


def test_kinds_of_work_are_measured_apart_and_the_first_of_a_kind_by_all() -> None:
    clock = Clock()
    curfew = Curfew(100.0, lambda: clock.now)

    async def measured() -> None:
        await curfew.kept("draft", clock.taking(20.0))
        assert curfew.expected("justify") == 20.0
        await curfew.kept("justify", clock.taking(2.0))

    asyncio.run(measured())
    assert (curfew.expected("draft"), curfew.expected("justify")) == (20.0, 2.0)


def test_without_a_deadline_everything_is_done() -> None:
    assert asyncio.run(Curfew(None).kept("draft", Clock().taking(1e9))) == "done"


def test_part_under_way_at_the_deadline_is_left_and_its_own_timeout_is_raised() -> None:
    async def broken_off() -> str | None:
        return await Curfew(time.time() + 0.05).kept("draft", lambda: asyncio.sleep(30, "done"))

    async def failing() -> None:
        raise TimeoutError("of its own")

    assert asyncio.run(broken_off()) is None
    with pytest.raises(TimeoutError, match="of its own"):
        asyncio.run(Curfew(time.time() + 30).kept("draft", failing))


def _session(run: Run, step_of: Callable[..., Step], num_parts: int, deadline: float, **speed: Any) -> Session:
    parts = [[{"id": f"r{i}", "question": f"thing {i} [plant]", "num_copies": 1}] for i in range(num_parts)]
    pool = step_of("data/unlabeled", schema.UNLABELED, *parts)
    step = run.step("rounds/0001/drafts/base", settings={}, inputs={}, parts=pool.parts)
    job = DraftJob(step, pool, pool, None, 0, Sampling(0.0, 16), None)
    spec = EngineSpec("scripted", "m", "m", None, {}, "float32", 512, 4, 0, 1, False, TASK.format, {}, speed)
    return Session("base", spec, TASK, "2024-07-26", (job,), 1, deadline)


def test_attempt_that_the_deadline_broke_off_is_noted_as_left_and_suspects_nobody(
    run: Run, step_of: Callable[..., Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = type("Here", (), {"get_actor_id": lambda _: "actor", "get_node_id": lambda _: "node"})()
    monkeypatch.setattr("ray.get_runtime_context", lambda: here)
    session = _session(run, step_of, 1, time.time() + 3, seconds_per_request=30.0)
    worker = EngineWorker(session)

    assert asyncio.run(worker({"part": ["part-00000"], "jobs": [[0]]})) == {"reports": [[]]}

    made = ledger.tries(session.jobs[0].step, "part-00000")
    assert [one.end for one in made] == ["left"]
    assert ledger.suspicion(made, None, run.fence) == 0


@pytest.mark.usefixtures("small_ray")
def test_session_after_its_deadline_ends_with_every_part_left(run: Run, step_of: Callable[..., Step]) -> None:
    session = _session(run, step_of, 12, time.time() - 1)
    reports = list[PartReport]()

    run_session(
        session, Replicas(1, 1, 0, 1), reports.append, lambda _: None, Heard(print, lambda *_, **__: None), Patience()
    )

    assert reports == []
    assert len(session.jobs[0].step.missing_parts()) == 12
    assert ledger.tries(session.jobs[0].step, "part-00000") == []
