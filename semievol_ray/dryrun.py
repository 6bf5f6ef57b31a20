"""`semievol run --dry-run`: everything of a run but the spending, and whether it could start.

Invariant: the run's folder is left as it was; what would refuse the run raises here as it would there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from semievol_ray import tables
from semievol_ray.check import check, planned_steps
from semievol_ray.checks import check_addresses
from semievol_ray.config import RunConfig
from semievol_ray.core.workload import Splits, step_rows
from semievol_ray.placement import Replicas, Resources, place, place_training
from semievol_ray.progress import Progress
from semievol_ray.rehearsal import first_step
from semievol_ray.runs import Step
from semievol_ray.sizes import records_at, rounds_of, splits_of, trial

DONE, OPEN = "done", "to do"


@dataclass(frozen=True)
class StepPlan:
    """One step that a run does: its rows (None where it has none of its own), and how far it is."""

    name: str
    rows: int | None
    state: str


@dataclass(frozen=True)
class DryRun:
    """What a run would do now. `first` is the step it would begin with; None where it is finished."""

    config: str
    root: str
    steps: tuple[StepPlan, ...]
    resources: Resources
    engines: Replicas
    training: tuple[float, float]
    first: str | None


def dry_run(config: RunConfig, root: str, progress: Progress | None = None) -> DryRun:
    """Check, rehearse, cut the data in a trial folder, look at the cluster, place. Raises whatever a run would."""
    check_addresses(config)
    resolved = check(config).partition("\n# ")[0]
    first = first_step(config, root)
    with trial(config, root, progress or Progress()) as context:
        resources = context.resources  # a cluster that does not answer is known before the data are read
        splits = splits_of(context, root)
    speed = config.speed
    steps = step_plans(config, root, splits)
    return DryRun(resolved, root, steps, resources, place(speed, resources), place_training(speed, resources), first)


def step_plans(config: RunConfig, root: str, splits: Splits) -> tuple[StepPlan, ...]:
    """Every planned step with its rows, known ones where it is committed, and how far it is in the run in `root`."""
    records, rounds = records_at(root), rounds_of(config)
    rows = {name: step_rows(name, splits, rounds) for name in planned_steps(config)}
    return tuple(_step_plan(root, name, num, records.get(name)) for name, num in rows.items())


def _step_plan(root: str, name: str, rows: int | None, record: Mapping[str, Any] | None) -> StepPlan:
    if record is None:
        return StepPlan(name, rows, OPEN)
    if committed := record.get("committed"):
        return StepPlan(name, committed["num_rows"] if record["parts"] else rows, DONE)
    step = Step(f"{root}/{name}", name, tuple(record["parts"]))
    num = len(step.parts)
    return StepPlan(name, rows, f"{num - len(step.missing_parts())} of {num} parts" if num else "begun")


def render(found: DryRun) -> str:
    """The resolved configuration as YAML, then steps, placement and what would come first, as comments below it."""
    rows = [(s.name, tables.count(s.rows), s.state) for s in found.steps]
    blocks = [tables.table(("step", "rows", ""), rows), "\n".join(_placement(found)), _verdict(found)]
    told = "\n\n".join(blocks)
    return found.config.rstrip() + "\n\n" + "\n".join(f"# {line}".rstrip() for line in told.split("\n"))


def _placement(found: DryRun) -> list[str]:
    cluster, each, (cpus, gpus) = found.resources, found.engines, found.training
    nodes = len(cluster.nodes)
    has = f"{sum(n.num_cpus for n in cluster.nodes):g} CPUs and {cluster.num_gpus:g} GPUs"
    return [
        f"cluster:     {nodes} node{'s' * (nodes != 1)} with {has}",
        f"engines:     {each.num} at once, each {each.cpus_each:g} CPUs and {each.gpus_each:g} GPUs",
        f"fine-tuning: each worker {cpus:g} CPUs and {gpus:g} GPUs",
        "preflight:   nothing forbids the run",
    ]


def _verdict(found: DryRun) -> str:
    if found.first is None:
        return "This run is finished; `semievol run` would print its results."
    done = sum(step.state == DONE for step in found.steps)
    return f"This run could start. {done} of {len(found.steps)} steps are done; it would begin with {found.first}."
