"""Sessions on a real small Ray whose engines end in every way: each row once, and only bad rows given up."""

import asyncio
import gc
import os
import re
import signal
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from semievol_ray import schema
from semievol_ray.core.answers import Labels
from semievol_ray.engines.base import EngineSpec, Sampling
from semievol_ray.errors import RunStopped
from semievol_ray.placement import Replicas
from semievol_ray.runs import Run, Step
from semievol_ray.stages import ledger, notices
from semievol_ray.stages.draft import DraftJob
from semievol_ray.stages.jobs import PartReport, Session
from semievol_ray.stages.life import Life
from semievol_ray.stages.patience import Patience
from semievol_ray.stages.processes import descendants
from semievol_ray.stages.session import run_session
from semievol_ray.stages.supervision import MOST_ENDS, Heard, Supervisor
from semievol_ray.tasks import Task

TASK = Task("kinds", "Say what it is.", Labels(("plant", "animal", "food")), max_tokens=16)
DEATHS = {"bang": "error", "poof": "exit", "brr": "freeze", "zzz": "hang"}
Row = dict[str, Any]


@dataclass
class Told:
    """What the driver heard of a session."""

    reports: list[PartReport] = field(default_factory=list)
    events: list[tuple[str, Row]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    @property
    def heard(self) -> Heard:
        return Heard(self.lines.append, lambda kind, **fields: self.events.append((kind, fields)))

    @property
    def kinds(self) -> Counter[str]:
        return Counter(kind for kind, _ in self.events)


def _session(run: Run, pool: Step, numerics: Row, **speed: Any) -> Session:
    step = run.step("rounds/0001/drafts/base", settings={}, inputs={}, parts=pool.parts)
    job = DraftJob(step, pool, pool, None, 0, Sampling(0.0, 16), None)
    speed = {"max_num_seqs": 2, **speed}
    spec = EngineSpec(
        "scripted", "m", "m", None, {}, "float32", 512, 4, 0, 1, False, TASK.format, numerics, speed
    )  # fmt: skip
    return Session("base", spec, TASK, "2024-07-26", (job,), 2)


def _rows_in(session: Session) -> list[Row]:
    step = session.jobs[0].step
    return [row for part in step.parts for row in step.read_part(part, schema.DRAFTS).to_pylist()]


def _answered(
    session: Session, told: Told, patience: Patience, on_report: Callable[[], None],
    replicas: Replicas = Replicas(1, 1, 0, 1),  # noqa: B008
) -> list[Row]:  # fmt: skip
    def report(one: PartReport) -> None:
        told.reports.append(one)
        on_report()

    run_session(session, replicas, report, lambda _: None, told.heard, patience)
    assert Counter(r.part for r in told.reports) == Counter(session.jobs[0].step.parts)
    return _rows_in(session)


def _pool(step_of: Callable[..., Step], questions: Sequence[str]) -> Step:
    rows = [{"id": f"r{i}", "question": q, "num_copies": 1} for i, q in enumerate(questions)]
    return step_of("data/unlabeled", schema.UNLABELED, *[rows[i : i + 2] for i in range(0, len(rows), 2)])


def _suspect(step: Step, part: str) -> None:
    """Two ends of the part and one of its second row alone, as seen under earlier drivers: one death is left to see."""
    for rows in (None, None, (1, 2)):
        ledger.end(ledger.begin(step, part, "", rows), "engine", "seen before")


@pytest.mark.usefixtures("small_ray")
def test_rows_that_end_their_engine_are_given_up_whatever_way_and_all_others_answered(
    run: Run, step_of: Callable[..., Step]
) -> None:
    questions = [q for word in DEATHS for q in (f"good thing beside {word[:2]}", f"a {word} thing")]
    session, told = _session(run, _pool(step_of, questions), {"die_on": DEATHS}), Told()
    for part in session.jobs[0].step.parts:
        _suspect(session.jobs[0].step, part)
    rows = _answered(session, told, Patience(stall_seconds=2.0), lambda: None)
    assert [row["id"] for row in rows] == [f"r{i}" for i in range(8)]
    assert all(row["error"] is None and row["text"] for row in rows[::2])
    assert all(row["error"].startswith("this row ended its engine twice: ") for row in rows[1::2])
    seen = [row["error"].partition(": ")[2] for row in rows[1::2]]
    assert "told to end" in seen[0]
    assert "killed or crashed" in seen[1]
    assert seen[2].startswith("no progress for") and seen[3].startswith("no progress for")  # noqa: PT018
    assert (told.kinds["engine_died"], told.kinds["engine_stalled"]) == (1, 2)
    assert told.kinds["engine_vanished"] in (1, 2)  # twice where the next try began before the watchdog had told
    reports = sorted(Path(run.root, "logs").glob("stall-*.txt"))
    assert {word for word in ("r5", "r7") if any(word in p.read_text() for p in reports)} == {"r5", "r7"}


@pytest.mark.usefixtures("small_ray")
def test_engines_have_the_environment_that_generation_is_given(
    run: Run, step_of: Callable[..., Step], tmp_path: Path
) -> None:
    own, seen = tmp_path / "own", set[str]()
    own.mkdir()
    replicas = Replicas(1, 1, 0, 1, runtime_env={"env_vars": {"TMPDIR": str(own)}})

    rows = _answered(
        _session(run, _pool(step_of, ["a good thing"] * 4), {}),
        Told(),
        Patience(),
        lambda: seen.update(path.name.rpartition("-")[0] for path in own.iterdir()),
        replicas,
    )

    assert all(row["error"] is None for row in rows)
    assert "semievol-pulse" in seen


@pytest.mark.usefixtures("small_ray")
def test_killed_and_terminated_engines_cost_the_parts_in_hand_and_a_full_one_starts_smaller(
    run: Run, step_of: Callable[..., Step]
) -> None:
    pool = _pool(step_of, [f"thing {i} [plant]" for i in range(48)])
    session = _session(run, pool, {"most_num_seqs": 2}, max_num_seqs=4, seconds_per_request=0.3)
    told = Told()
    signals = {2: signal.SIGKILL, 7: signal.SIGTERM}

    def disturb() -> None:
        if number := signals.pop(len(told.reports), None):  # reports come in bursts, after which it has nothing in hand
            threading.Timer(0.3, _signal_engine, [number]).start()

    rows = _answered(session, told, Patience(grace_seconds=5.0), disturb)
    assert [row["id"] for row in rows] == [f"r{i}" for i in range(48)]
    assert all(row["error"] is None for row in rows)
    ends = ("engine_out_of_memory", "engine_vanished", "engine_left")
    assert [told.kinds[kind] for kind in ends] == [1, 1, 1]
    left = next(fields for kind, fields in told.events if kind == "engine_left")
    assert left["parts"] == []  # what was begun was finished
    assert dict(told.events)["engine_adjusted"]["settings"] == {"max_num_seqs": 2}
    assert any("ran with max_num_seqs 2 after 1 out-of-memory restart" in line for line in told.lines)
    step = session.jobs[0].step
    tried = [one for part in step.parts for one in ledger.tries(step, part)]
    assert [report.attempt for report in told.reports if report.attempt > 1]
    assert len(step.parts) < len(tried) <= len(step.parts) + 5  # the parts in the hands of the one that was killed


def _signal_engine(number: int) -> None:
    while len(pids := [p for p in descendants(os.getpid()) if _is_engine(p)]) != 1:
        time.sleep(0.05)
    os.kill(pids[0], number)


def _is_engine(pid: int) -> bool:
    with suppress(OSError):
        return b"MapWorker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def test_engine_that_fits_on_no_rung_stops_with_what_to_do(run: Run, step_of: Callable[..., Step]) -> None:
    session = _session(run, _pool(step_of, ["a", "b"]), {"most_num_seqs": 0})
    for _ in range(10):
        try:
            Life(session, "actor", "node", None)
        except RuntimeError:
            continue  # out of memory on this rung
        break
    assert notices.rung(notices.board_of(session)).number == 2
    life = Life(session, "actor", "node", None)
    with pytest.raises(
        RunStopped, match=r"max_num_seqs 1, max_num_batched_tokens 512 .*numerics\.max_model_len"
    ) as caught:
        _run(life)
    assert "CUDA out of memory" in str(caught.value)


def _run(life: Life) -> None:
    asyncio.run(life.admitted())


def test_part_that_waits_on_a_machine_that_goes_away_waits_though_garbage_is_collected(
    run: Run, step_of: Callable[..., Step]
) -> None:
    life = Life(_session(run, _pool(step_of, ["a"]), {}), "actor", "node", None)
    life._departure.begun.set()

    async def waiting() -> int:
        tasks = weakref.WeakSet([asyncio.ensure_future(life.admitted()) for _ in range(3)])
        await asyncio.sleep(0)
        gc.collect()
        await asyncio.sleep(0)
        return sum(not task.done() for task in tasks)

    assert asyncio.run(waiting()) == 3


def test_engines_that_run_out_together_take_one_step_down(run: Run, step_of: Callable[..., Step]) -> None:
    session = _session(run, _pool(step_of, ["a", "b"]), {})
    board, spec = notices.board_of(session), session.spec
    at = notices.rung(board)
    assert all(notices.step_down(board, spec, at, "memory", "seen") for _ in range(5))
    assert notices.rung(board).number == 1


def test_busy_device_of_one_machine_makes_the_engines_of_no_other_smaller(
    run: Run, step_of: Callable[..., Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "Free memory on device cuda:0 (40/80 GiB) on startup is less than desired GPU memory utilization (0.92, 73.6"
    speeds: list[Row] = []

    def start(spec: EngineSpec, *_: Any) -> None:
        speeds.append({name: value for name, value in spec.speed.items() if name == "gpu_memory_utilization"})
        raise ValueError(said) if spec.speed.get("gpu_memory_utilization", 0.92) > 0.5 else RuntimeError("well")

    monkeypatch.setattr("semievol_ray.stages.life.open_generator", start)
    monkeypatch.setattr("semievol_ray.stages.life.AGAIN_SECONDS", 0.0)
    session = _session(run, _pool(step_of, ["a", "b"]), {})
    session = replace(session, spec=replace(session.spec, on_gpu=True))
    for node, told in (("busy", said), ("busy", "well"), ("idle", said)):
        with pytest.raises((ValueError, RuntimeError), match=re.escape(told)):
            Life(session, "actor", node, None)
    assert speeds == [{}, {"gpu_memory_utilization": 0.48}, {}]
    assert notices.rung(notices.board_of(session)).number == 0


def test_ends_between_which_rows_are_answered_stop_nothing(run: Run, step_of: Callable[..., Step]) -> None:
    session, told = _session(run, _pool(step_of, ["a", "b"]), {}), Told()
    board = notices.board_of(session)
    with Supervisor("base", board, 1, 600.0, told.heard) as supervisor:
        for _ in range(3):
            for _ in range(MOST_ENDS - 1):
                notices.tell(board, "engine_died", parts=[], seen="a bad row", replica="a", node="n")
            supervisor._look()
            notices.tell(board, notices.ROWS_DONE)
            supervisor._look()
    assert notices.stopped(board) is None
    assert notices.ROWS_DONE not in told.kinds


@pytest.mark.parametrize(("kind", "num"), [("engine_start_failed", 3), ("engine_died", MOST_ENDS)])
def test_session_in_which_engines_only_end_is_stopped_with_what_was_seen(
    run: Run, step_of: Callable[..., Step], kind: str, num: int
) -> None:
    session, told = _session(run, _pool(step_of, ["a", "b"]), {}), Told()
    board = notices.board_of(session)

    def tell(times: int) -> None:
        for _ in range(times):
            notices.tell(board, kind, parts=[], seen="no driver", replica="a", node="n")

    with Supervisor("base", board, 1, 600.0, told.heard):
        tell(num - 1)
    assert notices.stopped(board) is None
    with Supervisor("base", board, 1, 600.0, told.heard):
        tell(num)
    assert "no driver" in str(notices.stopped(board))
    with pytest.raises(RunStopped, match="no driver"):
        _run(Life(session, "actor", "node", None))
