"""`semievol plan`: rows, tokens, time, money, disk and files of a run before it is run, kept beside it as plan.json.

Invariant: the run itself is not begun; all that is written is the pilot's folder and plan.json.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from semievol_ray import storage
from semievol_ray.config import RunConfig
from semievol_ray.core.planning import PlannedStep, PlannedUnit, Rate, Span, Totals, Work, planned, replicas_for, totals
from semievol_ray.core.workload import EMBEDDED, Rounds, Splits, kind_of
from semievol_ray.errors import PlacementError, UserError
from semievol_ray.placement import Node, Replicas, Resources, place, place_embedding
from semievol_ray.planning.computed import computed
from semievol_ray.planning.measured import Measured
from semievol_ray.planning.pilot import run_pilot
from semievol_ray.planning.works import Group, groups_of, works_of
from semievol_ray.preflight import looked_over, preflight
from semievol_ray.progress import Progress
from semievol_ray.records import encode, now, read_json
from semievol_ray.runs import read_events
from semievol_ray.sessions import ENDPOINT
from semievol_ray.sizes import rounds_of, splits_of, trial
from semievol_ray.stages.nodes import DRIVER

PLAN, DAY_SECONDS = "plan.json", 86400.0
ITEM_BYTES = 4096
"""What Ray's object store holds for each part under way: its name, and the reports that come back."""


@dataclass(frozen=True)
class Packing:
    """An engine group and how it lies on the cluster: `num` engines at once of these CPUs and GPUs."""

    name: str
    model: str
    answers: tuple[str, ...]
    num: int
    cpus_each: float
    gpus_each: float


@dataclass(frozen=True)
class Plan:
    """A run before it is run. `gpus_for_a_day`: GPUs (engines, without GPUs) with which it takes a day at most."""

    name: str
    made: str
    basis: str
    splits: Splits
    gpus: float
    steps: tuple[PlannedStep, ...]
    units: tuple[PlannedUnit, ...]
    whole: Totals
    packing: tuple[Packing, ...]
    gpus_for_a_day: float | None
    gpu_hours: Span
    price: float | None
    object_store_bytes: int


def make_plan(
    config: RunConfig,
    root: str,
    *,
    pilot: int,
    gpus: int | None = None,
    price: float | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Plan a run by a pilot of so many rows on the cluster at hand, or (0) by arithmetic; store plan.json in `root`.

    gpus: plan for so many instead of those at hand. price: money of a GPU-hour. Raises what a run raises, UserError.
    """
    progress = progress or Progress()
    look = preflight if pilot or gpus is None else looked_over  # the run that is computed is for other machines
    with trial(config, root, progress, look) as context:
        at_hand = context.resources
        wanted = _with_gpus(at_hand, gpus, config, is_measured=pilot > 0)
        named = gpu_names(context.run.root)
        splits = splits_of(context, root)
        context.resources = wanted
        merged = context.serving_numerics()["adapter_serving"] == "merged"
    replicas = place(config.speed, wanted)
    if pilot:
        found = run_pilot(config, splits, pilot, storage.absolute(root), progress, at_hand)
        basis = f"a pilot of {round(min(pilot, splits.pool // 10))} rows on the cluster at hand"
    else:
        found, basis = computed(config, splits, wanted, named)
    plan = _planned(config, splits, found, replicas, wanted, merged)
    plan = replace(plan, basis=basis, price=price)
    storage.make_folder(root)
    storage.write(f"{root}/{PLAN}", encode(asdict(plan)))
    return plan


def stored_plan(root: str) -> dict[str, Any] | None:
    """The plan that was kept with a run, as JSON values; None without one."""
    return read_json(f"{root}/{PLAN}") if storage.exists(f"{root}/{PLAN}") else None


def _planned(
    config: RunConfig, splits: Splits, found: Measured, replicas: Replicas, resources: Resources, merged: bool
) -> Plan:
    works = works_of(config, splits, _rounds(config, found), merged=merged)
    rates = {work.step: rate_for(work, found.rates) for work in works}
    shares = _shares(works, replicas, resources)
    starts = {work.unit: start_for(work.unit, found.starts) for work in works if work.engine}
    steps, units = planned(works, rates, starts, shares)
    whole = totals(steps, units, works, rates, shares, replicas.num, found.once)
    each = replicas.gpus_each or 1.0
    fewest = replicas_for(DAY_SECONDS, whole, replicas.num)
    return Plan(
        name=config.name,
        made=now(),
        basis="",
        splits=splits,
        gpus=resources.num_gpus,
        steps=tuple(steps),
        units=tuple(units),
        whole=whole,
        packing=tuple(_packing(group, replicas) for group in groups_of(config, merged=merged)),
        gpus_for_a_day=fewest * each if fewest is not None else None,
        gpu_hours=whole.seconds.times(resources.num_gpus / 3600),
        price=None,
        object_store_bytes=ITEM_BYTES * max((work.parts for work in works), default=0),
    )


def _shares(works: Sequence[Work], replicas: Replicas, resources: Resources) -> dict[str, int]:
    """Among how many a step's work is divided: the cluster's engines, or as many embedders as the step will have."""
    engines = {w.step: replicas.num for w in works if w.engine and not w.engine.startswith(ENDPOINT)}
    return engines | {w.step: place_embedding(resources, w.parts).num for w in works if kind_of(w.step) in EMBEDDED}


def gpu_names(root: str) -> tuple[str, ...]:
    """What the nodes of a run's cluster call their GPUs, as they told before it."""
    told = [node for event in read_events(root) if event["kind"] == "preflight" for node in event["nodes"]]
    names: list[str] = []
    for node in told:
        if node["node"] != DRIVER and node["machine"]:
            gpus = sorted(node["machine"]["gpus"], key=lambda gpu: -gpu["memory_bytes"])
            names += [gpu["name"] for gpu in gpus[: math.ceil(node["num_gpus"])]]  # those that Ray gives out
    return tuple(names)


def rate_for(work: Work, rates: Mapping[str, Rate]) -> Rate:
    """The pilot's rate of the step of the same kind; of drafts and fine-tunings the same collaborator or base first.

    A step that the pilot had nothing like (a dev fold's gold answers, `pool` of a later round) counts as a short one.
    """
    kind, names = kind_of(work.step), work.step.split("/")
    if work.step in rates and kind != "train" and work.step != LAST_EVALUATION:
        return rates[work.step]
    same = [name for name in rates if kind_of(name) == kind]
    if kind == "drafts":
        same = [name for name in same if name.split("/")[-1] == names[-1]] or same
    if kind in ("evaluate", "validation"):  # the pilot's last is alone with its engine, which few rows do not fill
        filled = ["rounds/0000/evaluate", "base/evaluate", *(n for n in rates if kind_of(n) == "justify")]
        same = [*filled, LAST_EVALUATION]
    if kind == "train":
        same = [work.step] if work.step.startswith("bases/") else ["rounds/0001/train", *same]
    return next((rates[name] for name in same if name in rates), SHORT)


LAST_EVALUATION = "rounds/0001/evaluate"
SHORT = Rate(fixed_seconds=Span(0.0, 1.0, 5.0), fixed_files=3.0, row_bytes=100.0)
"""A step that reads and writes rows once."""


def start_for(unit: str, starts: Mapping[str, Span]) -> Span:
    """What the pilot's session of the same engine group took once; any session's where it had none of that group."""
    group = unit.partition(" ")[2]
    same = [start for name, start in starts.items() if name.partition(" ")[2] == group]
    return (same or list(starts.values()) or [Span(0.0, 0.0, 0.0)])[0 if not unit.startswith("evaluate") else -1]


def _rounds(config: RunConfig, found: Measured) -> Rounds:
    """The percentile's share is known; another rule accepts what it finds, which the pilot cannot know: a half."""
    rounds = rounds_of(config)
    return replace(rounds, accepted=found.accepted) if config.method.select.rule == "percentile" else rounds


def _packing(group: Group, replicas: Replicas) -> Packing:
    if group.is_endpoint:
        return Packing(group.name, group.model, group.answers, 1, 1.0, 0.0)
    return Packing(group.name, group.model, group.answers, replicas.num, replicas.cpus_each, replicas.gpus_each)


def _with_gpus(resources: Resources, gpus: int | None, config: RunConfig, *, is_measured: bool) -> Resources:
    """The cluster that is planned for: the one at hand, or one of `gpus` GPUs in nodes like its own (of 8 without)."""
    if gpus is None:
        return resources
    if is_measured and not resources.num_gpus:
        raise UserError(
            "--gpus with a pilot needs a GPU to measure on, and the cluster at hand has none. Give --pilot 0, which "
            "computes from the model's shape and a GPU's data sheet, or --address of a cluster with GPUs."
        )
    like = max(resources.nodes, key=lambda node: node.num_gpus, default=Node(8, 0))
    each = int(like.num_gpus) or 8
    full, rest = divmod(gpus, each)
    nodes = [replace(like, num_gpus=float(each), num_cpus=max(like.num_cpus, 4.0 * each))] * full
    nodes += [replace(like, num_gpus=float(rest), num_cpus=max(like.num_cpus, 4.0 * rest))] * (rest > 0)
    found = Resources(tuple(nodes))
    try:
        place(config.speed, found)
    except PlacementError as error:
        raise UserError(f"--gpus {gpus}: {error}") from error
    return found


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan as JSON values; the same names as in the dataclasses."""
    found: dict[str, Any] = json.loads(json.dumps(asdict(plan)))
    return found
