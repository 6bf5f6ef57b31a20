"""`semievol status`: how far every step of a run is, read from its directory alone.

Invariant: nothing is written and no lease is taken, so that looking never disturbs a run.
"""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from semievol_ray import lease, storage, tables
from semievol_ray.check import planned_steps
from semievol_ray.configfile import parse
from semievol_ray.runs import Step, read_events, read_manifest, read_steps


class State(StrEnum):
    """How far a step is."""

    COMMITTED = "committed"
    UNDER_WAY = "under way"
    NOT_BEGUN = "not begun"


@dataclass(frozen=True)
class StepStatus:
    """One step; figures that are not known yet are None. `seconds` are those of the attempt that committed it."""

    name: str
    state: State
    parts_done: int | None = None
    parts_total: int | None = None
    rows: int | None = None
    seconds: float | None = None
    errors: int | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class RunStatus:
    """A run: its steps in order, and its last driver; `running` is None when that cannot be known from here."""

    name: str
    root: str
    driver: str | None
    running: bool | None
    finished: bool
    steps: tuple[StepStatus, ...]


def status(root: str) -> RunStatus:
    """The state of a run directory. Raises UserError when the folder is none."""
    manifest = read_manifest(root)
    begun = dict(read_steps(root))
    planned = planned_steps(parse(manifest["config"], f"{root}/manifest.json"))
    reports = _reports(root)
    if "final" in manifest:  # the rounds may have stopped early
        last = manifest["final"]["last_round"]
        planned = [name for name in planned if name in begun or _round_of(name) <= last]
    names = [*planned, *(name for name in begun if name not in planned)]
    steps = tuple(_step(root, name, begun.get(name), reports.get(name, {})) for name in names)
    holder = lease.newest_holder(root)
    return RunStatus(
        name=str(manifest["name"]),
        root=root,
        driver=f"process {holder.pid} on host {holder.host}" if holder else None,
        running=False if holder is None or holder.released else lease.is_running(holder),
        finished=all(step.state is State.COMMITTED for step in steps),
        steps=steps,
    )


def as_json(found: RunStatus) -> dict[str, Any]:
    """The status as JSON values; the same names as in the dataclasses."""
    return asdict(found)


def render(found: RunStatus) -> str:
    """The status as a table that fits 80 columns."""
    header = ("step", "state", "parts", "rows", "time", "errors", "tokens")
    rows = [
        (
            _shortened(step.name),
            step.state.value,
            f"{step.parts_done}/{step.parts_total}" if step.parts_total else tables.ABSENT,
            tables.count(step.rows),
            tables.seconds(step.seconds),
            tables.count(step.errors),
            tables.count(step.tokens),
        )
        for step in found.steps
    ]
    return f"run {found.name}: {found.root}\n{_driver_line(found)}\n\n{tables.table(header, rows, num_left=2)}"


def _driver_line(found: RunStatus) -> str:
    if found.running:
        return f"running: {found.driver}"
    if found.finished:
        return "finished"
    if found.running is None:
        return f"held by {found.driver}; whether it lives cannot be seen from here"
    return "not running, not finished: `semievol run` with the same configuration goes on"


def _step(root: str, name: str, record: dict[str, Any] | None, reports: dict[str, dict[str, Any]]) -> StepStatus:
    if record is None:
        return StepStatus(name, State.NOT_BEGUN)
    total = len(record["parts"])
    if committed := record.get("committed"):
        found = committed["metrics"]
        rows = committed["num_rows"] if total else None
        errors, tokens = found.get("num_errors"), found.get("num_tokens")
        return StepStatus(name, State.COMMITTED, total, total, rows, committed["seconds"], errors, tokens)
    step = Step(f"{root}/{name}", name, tuple(record["parts"]))
    done = [part for part in step.parts if part not in set(step.missing_parts())]
    rows = sum(storage.num_rows(step.part_path(part)) for part in done) if total else None
    told = [reports[part] for part in done if part in reports]
    errors, tokens = (sum(r[key] for r in told) if told else None for key in ("num_errors", "num_tokens"))
    return StepStatus(name, State.UNDER_WAY, len(done), total, rows, None, errors, tokens)


def _round_of(name: str) -> int:
    return int(name.split("/")[1]) if name.startswith("rounds/") else 0


def _reports(root: str) -> dict[str, dict[str, dict[str, Any]]]:
    """step -> part -> what its worker told when it committed the part."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for event in read_events(root):
        if event["kind"] == "part_committed":
            found.setdefault(event["step"], {})[event["part"]] = event
    return found


def _shortened(name: str, longest: int = 29) -> str:
    return name if len(name) <= longest else f"{name[: longest - 3]}..."
