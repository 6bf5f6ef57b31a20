"""`semievol status`: how far every step of a run is, how fast and with what trouble, from its directory alone.

Invariant: nothing is written and no lease is taken, so that looking never disturbs a run.
"""

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from semievol_ray import lease, storage
from semievol_ray.activity import Activity, Pace, Replica, Trouble, activity, total
from semievol_ray.check import planned_steps
from semievol_ray.config import RunConfig
from semievol_ray.configfile import parse
from semievol_ray.core.workload import kind_of
from semievol_ray.errors import StorageError
from semievol_ray.events import last_line
from semievol_ray.forecast import Left, run_seconds_left, step_seconds_left
from semievol_ray.inventory import StepFiles, take_inventory
from semievol_ray.retries import retries
from semievol_ray.runs import Step, read_events, read_manifest
from semievol_ray.sessions import seconds_between
from semievol_ray.starts import Starts, engine_starts
from semievol_ray.steps import STEP_FILE, read_step_record

SILENT_SECONDS = 300.0
"""From so long without an event on, a run that a driver holds is told to be silent."""
FOOTERS = 32


class State(StrEnum):
    """How far a step is."""

    COMMITTED = "committed"
    UNDER_WAY = "under way"
    NOT_BEGUN = "not begun"


@dataclass(frozen=True)
class StepStatus:
    """One step; figures that are not known yet are None. `seconds` are those of the attempt that committed it.

    Parts of a fine-tuning are its optimizer steps. `rows_estimated`: from the footers of FOOTERS parts. `cleaned`: what
    `semievol clean` removed, parts or texts.
    """

    name: str
    state: State
    parts_done: int | None = None
    parts_total: int | None = None
    rows: int | None = None
    seconds: float | None = None
    errors: int | None = None
    tokens: int | None = None
    prompt_tokens: int | None = None
    rows_estimated: bool = False
    num_bytes: int = 0
    retries: Mapping[str, int] = field(default_factory=dict)
    rows_per_second: float | None = None
    seconds_left: float | None = None
    first_error: str | None = None
    cleaned: str | None = None


@dataclass(frozen=True)
class RunStatus:
    """A run: its steps in order, its last driver, and its pace; `running` is None when that cannot be known from here.

    `renewals` is the count of the driver's lease: where it grows between two looks, the driver lives. `pace` is that of
    the last minutes of the session under way, None without one. `silent_seconds`: since the last event. `stopped`: why
    the last driver ended before the run's end, where it could tell.
    """

    name: str
    root: str
    driver: str | None
    running: bool | None
    finished: bool
    steps: tuple[StepStatus, ...]
    time: str = ""
    renewals: int = 0
    num_bytes: int = 0
    pace: Pace | None = None
    replicas: tuple[Replica, ...] = ()
    troubles: tuple[Trouble, ...] = ()
    seconds_left: float | None = None
    last_event: str | None = None
    silent_seconds: float | None = None
    stopped: str | None = None
    starts: Starts | None = None

    @property
    def is_silent(self) -> bool:
        """Whether a driver holds the run, and has told nothing for SILENT_SECONDS."""
        held = self.running is not False and not self.finished
        return held and self.silent_seconds is not None and self.silent_seconds >= SILENT_SECONDS


def status(root: str, before: RunStatus | None = None) -> RunStatus:
    """The state of a run directory; `before` is an earlier look. Raises UserError when the folder is none."""
    manifest = read_manifest(root)
    config = parse(manifest["config"], f"{root}/manifest.json")
    events = read_events(root)
    files, told = take_inventory(root), activity(events)
    records = _records(root, list(files.steps))
    names = _names(manifest, config, records)
    holder = lease.newest_holder(root)
    running, now = _running(holder, before), datetime.now(UTC).isoformat(timespec="microseconds")
    if running is False:
        told = replace(told, pace=None, by_step={}, replicas=())
    steps = tuple(_step(root, name, records.get(name), files.steps.get(name, StepFiles()), told) for name in names)
    return RunStatus(
        name=str(manifest["name"]),
        root=root,
        driver=f"process {holder.pid} on host {holder.host}" if holder else None,
        running=running,
        finished=all(step.state is State.COMMITTED for step in steps),
        steps=steps,
        time=now,
        renewals=holder.counter if holder else 0,
        num_bytes=files.num_bytes,
        pace=told.pace,
        replicas=told.replicas,
        troubles=told.troubles,
        seconds_left=_seconds_left(config, records, steps, told.pace) if running is not False else None,
        starts=engine_starts(events),
        last_event=str(told.last["kind"]) if told.last else None,
        silent_seconds=max(0.0, seconds_between(told.last["time"], now)) if told.last else None,
        stopped=str(told.last["reason"]) if told.last and told.last["kind"] == "run_stopped" else None,
    )


def as_json(found: RunStatus) -> dict[str, Any]:
    """The status as JSON values; the same names as in the dataclasses."""
    return {**asdict(found), "is_silent": found.is_silent}


def _records(root: str, names: list[str]) -> dict[str, dict[str, Any]]:
    """Each step's step.json, in the order in which they began, without those that were removed meanwhile."""
    with ThreadPoolExecutor(8) as readers:
        read = zip(names, readers.map(lambda name: _record(f"{root}/{name}"), names), strict=True)
        found = [(name, record) for name, record in read if record is not None]
    return dict(sorted(found, key=lambda step: (step[1]["started"], step[0])))


def _record(folder: str) -> dict[str, Any] | None:
    """A step.json; None where the step, which stood only until another was committed, is gone since it was listed."""
    try:
        return read_step_record(folder)
    except StorageError:
        if storage.exists(f"{folder}/{STEP_FILE}"):
            raise
        return None


def _names(manifest: Mapping[str, Any], config: RunConfig, begun: Mapping[str, Any]) -> list[str]:
    """Planned steps in the driver's order, then others; rounds that the run did not come to are left out."""
    planned = planned_steps(config)
    if "final" in manifest:  # the rounds may have stopped early
        last = manifest["final"]["last_round"]
        planned = [name for name in planned if name in begun or _round_of(name) <= last]
    return [*planned, *(name for name in begun if name not in planned)]


def _running(holder: lease.Holder | None, before: RunStatus | None) -> bool | None:
    """Whether the driver lives; on another host that is known once its lease was renewed between two looks."""
    if holder is None or holder.released:
        return False
    running = lease.is_running(holder)
    if running is None and before and f"process {holder.pid} on host {holder.host}" == before.driver:
        return True if holder.counter > before.renewals else None
    return running


def _seconds_left(
    config: RunConfig, records: Mapping[str, Any], steps: tuple[StepStatus, ...], pace: Pace | None
) -> float | None:
    left = [Left(s.name, s.rows or 0, s.seconds_left) for s in steps if s.state is not State.COMMITTED]
    return run_seconds_left(config, records, left, pace.rows_per_second if pace else None)


def _step(root: str, name: str, record: dict[str, Any] | None, files: StepFiles, told: Activity) -> StepStatus:
    if record is None:
        return StepStatus(name, State.NOT_BEGUN)
    again = dict(retries(f"{root}/{name}", files))
    if committed := record.get("committed"):
        return _committed(name, record, committed, files, again)
    if kind_of(name) == "train":
        return _training(root, name, record, files)
    step = Step(f"{root}/{name}", name, tuple(record["parts"]))
    done = [part for part in step.parts if part in files.parts]
    reports = told.reports.get(name, {})
    seen = [reports[part] for part in done if part in reports]
    rows, is_estimated = _rows(step, done, {part: int(reports[part]["num_rows"]) for part in done if part in reports})
    pace = told.by_step.get(name)
    speed = pace.rows_per_second if pace else None
    errors, tokens, prompt = (
        total(seen, key) if seen else None for key in ("num_errors", "num_tokens", "num_prompt_tokens")
    )
    return StepStatus(
        name, State.UNDER_WAY, len(done), len(step.parts), rows, None, errors, tokens, prompt, is_estimated,
        files.num_bytes, again, speed, step_seconds_left(len(done), len(step.parts), rows or 0, speed or 0.0),
        next((str(event["first_error"]) for event in reversed(seen) if event.get("first_error")), None),
    )  # fmt: skip


def _committed(
    name: str, record: Mapping[str, Any], committed: Mapping[str, Any], files: StepFiles, again: Mapping[str, int]
) -> StepStatus:
    num_parts, found = len(record["parts"]), committed["metrics"]
    return StepStatus(
        name, State.COMMITTED, num_parts, num_parts, committed["num_rows"] if num_parts else None,
        committed["seconds"], found.get("num_errors"), found.get("num_tokens"), found.get("num_prompt_tokens"),
        num_bytes=files.num_bytes, retries=again, cleaned=(record.get("cleaned") or {}).get("removed"),
    )  # fmt: skip


def _training(root: str, name: str, record: Mapping[str, Any], files: StepFiles) -> StepStatus:
    """A fine-tuning under way, from the last line of its loss curve."""
    last = last_line(f"{root}/{name}/curve.jsonl")
    if last is None:
        return StepStatus(name, State.UNDER_WAY, num_bytes=files.num_bytes)
    done, of = int(last["step"]), int(last.get("num_steps") or 0)
    seconds = seconds_between(record["started"], datetime.now(UTC).isoformat())
    left = seconds / done * (of - done) if done and of else None
    return StepStatus(name, State.UNDER_WAY, done, of, num_bytes=files.num_bytes, seconds_left=left)


def _rows(step: Step, done: list[str], told: Mapping[str, int]) -> tuple[int | None, bool]:
    """Rows of the parts that are there, and whether the figure is an estimate from a few of them."""
    if not step.parts:
        return None, False
    others = [part for part in done if part not in told]
    read = others if len(others) <= FOOTERS else [others[i * len(others) // FOOTERS] for i in range(FOOTERS)]
    with ThreadPoolExecutor(8) as readers:
        rows = sum(readers.map(lambda part: _num_rows(step, part), read))
    return sum(told.values()) + (round(rows * len(others) / len(read)) if read else 0), len(read) < len(others)


def _num_rows(step: Step, part: str) -> int:
    """Rows of a part; none of one that is gone since it was listed, or damaged, which `verify` tells."""
    try:
        return storage.num_rows(step.part_path(part))
    except StorageError:
        return 0


def _round_of(name: str) -> int:
    return int(name.split("/")[1]) if name.startswith("rounds/") else 0


def all_retries(found: RunStatus) -> Counter[str]:
    """Reason -> attempts beyond the first, over all steps."""
    return sum((Counter(dict(step.retries)) for step in found.steps), Counter())
