"""One disturbed run from its start to its verdict.

Invariant: the verdict compares the run's folder with an undisturbed run's; nothing a driver says of itself counts.
"""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.chaos_cluster import Cluster
from benchmarks.chaos_drive import Drive
from benchmarks.chaos_files import Differences, Holding, changed, committed, differences, holding, parts_of
from benchmarks.chaos_plan import NEEDS_ENGINE, Plan, Strike
from benchmarks.chaos_processes import descendants, title
from benchmarks.chaos_strikes import POLL_SECONDS, NotSoError, Scene, strike

ENGINE_TABLES = ("drafts/", "justify/", "evaluate/")
AT_WORK = ("Worker", "ray::Map", "ray::Train")
LEAVE_SECONDS = 20.0
MAX_RERUNS = 5


class HangError(Exception):
    """A run's time is over."""


@dataclass(frozen=True)
class Arm:
    """What disturbed runs are measured against: configuration, undisturbed end, and limits of one engine.

    delay_seconds: the longest wait between a strike's moment and the strike. exact: files are reproducible.
    """

    config: Path
    expected: Holding
    exact: bool
    limit_seconds: float
    delay_seconds: float


@dataclass(frozen=True)
class Outcome:
    """What became of a run. kinds: strikes that met something; reruns: times the command had to be given again by
    itself, that is not as a part of a strike; left_over: processes still at work after the last driver's end.
    """

    kinds: tuple[str, ...]
    seconds: float
    found: Differences
    reruns: int = 0
    left_over: int = 0
    hang: bool = False
    wrong: str = ""

    @property
    def is_good(self) -> bool:
        """Whether nothing at all was wrong; to have to give the command again by hand is."""
        return self.found == Differences() and not (self.reruns or self.left_over or self.hang or self.wrong)


def undisturbed(cluster: Cluster, config: Path, folder: Path, limit_seconds: float) -> Holding:
    """What a run that nobody touches holds at its end; RuntimeError when it fails."""
    folder.mkdir(parents=True)
    drive = Drive(folder, config)
    try:
        drive.start(cluster.address).wait(timeout=limit_seconds)
        if drive.now.returncode:
            raise RuntimeError(f"the undisturbed run ended with exit {drive.now.returncode}: {drive.told(drive.now)}")
        return holding(drive.root)
    finally:
        drive.close()


def disturbed(cluster: Cluster, arm: Arm, plan: Plan, folder: Path) -> Outcome:
    """Do one run under its plan; the folder is removed when all was good, kept with logs when it was not."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    drive, began = Drive(folder, arm.config), time.monotonic()
    done: list[str] = []
    snapshots: list[Holding] = []
    reruns, wrong, hang = 0, "", False
    scene = Scene(cluster, drive, _clock(began + arm.limit_seconds))
    try:
        drive.start(cluster.address)
        for each in plan.strikes:
            if _await_moment(scene, arm, each):
                snapshots.append(committed(drive.root))
                done += [each.kind.value] if strike(scene, each) else []
        reruns = _await_last(scene)
    except NotSoError as error:
        wrong = str(error)
    except HangError:
        hang = True
        drive.dump()
    finally:
        drive.close()
    seconds = time.monotonic() - began
    found = _verdict(arm, drive.root, snapshots) if not (hang or wrong) else Differences()
    outcome = Outcome(tuple(done), round(seconds, 1), found, reruns, _left_over(), hang, wrong)
    if outcome.is_good:
        shutil.rmtree(folder)
    else:
        (folder / "outcome.json").write_text(json.dumps(described(plan, outcome), indent=1), encoding="utf-8")
        (folder / "processes.txt").write_text("\n".join(f"{p} {title(p)}" for p in descendants(os.getpid())))
        cluster.keep_logs(folder / "ray")
    return outcome


def described(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """A run as it is recorded."""
    flat = {**asdict(outcome), **asdict(outcome.found)}
    del flat["found"]
    planned = [f"{s.kind} at {s.moment:.2f}" for s in plan.strikes]
    return {"seed": plan.seed, "number": plan.number, "planned": planned, **flat}


def _await_moment(scene: Scene, arm: Arm, how: Strike) -> bool:
    """True when as many parts are committed as the strike waits for, and its delay is over; False at the run's end."""
    counts = [_counts(part, how) for part in arm.expected.parts]
    wanted = int(sum(counts) * how.moment)
    while sum(_counts(part, how) for part in parts_of(scene.drive.root)) < wanted:
        if _ended(scene):
            return False
        time.sleep(POLL_SECONDS)
    time.sleep(how.delay * arm.delay_seconds)
    return not _ended(scene)


def _counts(part: str, how: Strike) -> bool:
    """Strikes at engines are timed by the parts that engines make, others by all."""
    return how.kind not in NEEDS_ENGINE or any(table in part for table in ENGINE_TABLES)


def _ended(scene: Scene) -> bool:
    """Whether the run is done; a driver that gave up before is left to `_await_last`."""
    scene.still_time()
    return scene.drive.now.poll() is not None


def _await_last(scene: Scene) -> int:
    """Wait for the run's end and give the command again where a driver gave up; how often that was."""
    reruns = 0
    while True:
        while not _ended(scene):
            time.sleep(POLL_SECONDS)
        if scene.drive.now.returncode == 0:
            return reruns
        told = scene.drive.told(scene.drive.now)
        if reruns == MAX_RERUNS:
            raise NotSoError(f"gave up {reruns + 1} times, last with exit {scene.drive.now.returncode}: {told[-1500:]}")
        reruns += 1
        scene.drive.start(scene.cluster.address)


def _verdict(arm: Arm, root: Path, snapshots: list[Holding]) -> Differences:
    end = holding(root)
    against = differences(end, arm.expected, exact=arm.exact)
    late = sum(changed(before, end) for before in snapshots)
    return Differences(**{**asdict(against), "parts_changed": late})


def _left_over() -> int:
    """Ray workers that are still at work some time after the last driver is gone; idle ones are the cluster's."""
    deadline = time.monotonic() + LEAVE_SECONDS
    while left := [p for p in descendants(os.getpid()) if _is_at_work(title(p))]:
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_SECONDS)
    return len(left)


def _is_at_work(name: str) -> bool:
    return name.startswith("ray::") and any(mark in name for mark in AT_WORK)


def _clock(deadline: float) -> Callable[[], None]:
    def still_time() -> None:
        if time.monotonic() > deadline:
            raise HangError

    return still_time
