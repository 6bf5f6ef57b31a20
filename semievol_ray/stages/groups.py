"""Engine groups: wanted jobs by the weights they need, each group's session, and its parts as they come in.

Invariant: one engine start serves everything its weights are needed for; the student's warm group comes last, because
it justifies what all groups drafted.
"""

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from semievol_ray.config import SpeedConfig
from semievol_ray.engines.adapters import adapter_rank
from semievol_ray.engines.base import EngineSpec
from semievol_ray.engines.openai import MOST_DELAY_SECONDS
from semievol_ray.errors import DeadlineReached
from semievol_ray.methodconfig import EndpointConfig, endpoint_called
from semievol_ray.placement import Replicas, place, with_work
from semievol_ray.runs import Step, read_events
from semievol_ray.sessions import ENDPOINT
from semievol_ray.stages.context import Adapter, Context, require_device
from semievol_ray.stages.jobs import Job, PartReport, Session, missing, sequence
from semievol_ray.stages.justify import JustifyJob
from semievol_ray.stages.learning import refuse_changed
from semievol_ray.stages.pace import engine_start_seconds
from semievol_ray.stages.packing import PackedGroup, rate_before
from semievol_ray.stages.patience import Patience
from semievol_ray.stages.predict import PredictJob
from semievol_ray.stages.session import in_flight, run_session
from semievol_ray.stages.supervision import Heard
from semievol_ray.stages.watching import Watched
from semievol_ray.turns import turns

ENDPOINT_REPLICAS = Replicas(num=1, cpus_each=0.0, gpus_each=0.0, num_threads=1)
"""An endpoint needs one actor, which only waits: it fits beside engines that have every CPU."""


@dataclass(frozen=True)
class Wanted:
    """One job with what answers it: a base model, M_warm's adapter on it or not; or an endpoint."""

    job: Job
    model: str
    adapter: Adapter | None
    endpoint: EndpointConfig | None = None


def engine_groups(wanted: Sequence[Wanted]) -> list[list[Wanted]]:
    """Wanted jobs by the weights that must be resident: a base model and, where adapters are merged, which adapter.

    Those of an endpoint by how it is asked: with another key or limit it is another.
    """
    groups: dict[tuple[str, str, str], list[Wanted]] = {}
    for item in wanted:
        if not item.job.step.missing_parts():
            continue
        numerics = item.job.step.numerics()
        merged = item.adapter.digest if item.adapter and numerics["adapter_serving"] == "merged" else ""
        where = item.endpoint.asked_as if item.endpoint else merged
        groups.setdefault((item.model, where, json.dumps(numerics, sort_keys=True)), []).append(item)
    return sorted(groups.values(), key=justifies)


def justifies(group: Sequence[Wanted]) -> bool:
    """Whether a group reads what the others draft."""
    return any(isinstance(item.job, JustifyJob) for item in group)


@dataclass(frozen=True)
class Arranged:
    """Engine groups in the order in which they run: turns of those that stand at once, endpoints beside all turns.

    `last`: the group that reads what all others draft.
    """

    turns: Sequence[Sequence[list[Wanted]]]
    beside: Sequence[list[Wanted]]
    last: Sequence[list[Wanted]]

    @property
    def whole(self) -> list[list[list[Wanted]]]:
        """Everything but the endpoints, turn by turn."""
        return [*map(list, self.turns), *([group] for group in self.last)]


def arranged(context: Context, name: str, groups: Sequence[list[Wanted]]) -> Arranged:
    """Groups whose engines fit on the cluster together draft at once; on CPUs where nobody said how many engines.

    A node's memory was looked at for as many engines as fit on its CPUs, or for the number said, of one group.
    """
    last = [group for group in groups if justifies(group)]
    beside = [group for group in groups if group[0].endpoint and not justifies(group)]
    near = [group for group in groups if group not in last and group not in beside]
    if not near:
        return Arranged([], beside, last)
    pools, resources = [_placed(context, name, group)[1] for group in near], context.resources_now()
    may = context.on_gpu or context.config.speed.num_replicas == "auto"
    found = turns(pools, resources) if may else [[i] for i in range(len(near))]
    return Arranged([[near[i] for i in turn] for turn in found], beside, last)


def run_group(context: Context, name: str, group: Sequence[Wanted], *, beside: bool = False) -> None:
    """Answer every missing part of the jobs of one group; `beside` another, whose live line stands.

    Raises DeadlineReached with parts left.
    """
    if context.until and not group[0].endpoint:
        start = engine_start_seconds(read_events(context.run.root))
        context.until.require(f"the start of the engine of {name}", start)
    for adapter in {item.adapter for item in group if item.adapter}:
        refuse_changed(adapter)
    session, replicas = _placed(context, name, group)
    require_device(group[0].job.step, on_gpu=replicas.gpus_each > 0)
    rows = {job.step.name: _source(job).num_rows() for job in session.jobs}
    left = sum(_source(job).num_rows(job.step.missing_parts()) for job in session.jobs)
    watched = {name: Watched(context, name, num) for name, num in rows.items()}
    run, prefixes = context.run, Counter[str]()

    def on_report(report: PartReport) -> None:
        run.event("part_committed", **{k: v for k, v in report.__dict__.items() if k != "unreadable"})
        prefixes.update(num_looked_up=report.num_looked_up, num_found=report.num_found)
        bar.advance(report.num_rows)
        watched[report.step].see(report)

    run.event(
        "session_started",
        session=session.name,
        jobs=[j.step.name for j in session.jobs],
        num_parts=len(missing(session)),
    )
    follow = context.progress.slow if beside else context.progress.step
    with follow(session.name, left, "answers") as bar:
        run_session(
            session,
            replicas,
            on_report,
            lambda stats: run.event("session_ended", session=session.name, stats=stats, **prefixes),
            Heard(context.progress.say, run.event),
            _patience(context.config.speed, group[0].endpoint),
        )
    if context.until and missing(session):
        raise DeadlineReached(f"the deadline, {context.until.told}, has come")


def _patience(speed: SpeedConfig, endpoint: EndpointConfig | None) -> Patience:
    """How long to wait for an engine; for an endpoint at least as long as it is asked again."""
    retries = (endpoint.timeout_seconds + MOST_DELAY_SECONDS) * (endpoint.max_retries + 1) if endpoint else 0.0
    return Patience(max(speed.stall_seconds, retries), speed.start_seconds, speed.grace_seconds)


def _session(context: Context, name: str, group: Sequence[Wanted], replicas: Replicas) -> Session:
    config, first = context.config, group[0]
    numerics = first.job.step.numerics()
    adapters = {i.adapter.name: i.adapter.path for i in group if i.adapter}
    merged = numerics["adapter_serving"] == "merged"
    spec = EngineSpec(
        kind="openai" if first.endpoint else config.numerics.engine,
        model=first.model,
        model_path="" if first.endpoint else context.model(first.model).reference,
        merged=next(iter(adapters.values()), None) if merged else None,
        adapters={} if merged else adapters,
        dtype=numerics["dtype"],
        max_model_len=config.numerics.max_model_len,
        max_lora_rank=config.train.lora_r if merged else _largest_rank(adapters, config.train.lora_r),
        seed=random.Random(f"{config.seed}/{name}").randrange(2**31),
        num_threads=replicas.num_threads,
        on_gpu=replicas.gpus_each > 0,
        answer_format=context.task.format,
        numerics={}
        if first.endpoint
        else _engine_numerics(config.numerics.quantization, config.numerics.engine_kwargs),
        speed={} if first.endpoint else config.speed.engine_kwargs,
        endpoint=first.endpoint,
        core=config.speed.engine_core,
    )
    jobs = sequence([item.job for item in group])
    rows = max(map(_mean_rows, jobs))
    end, called = context.deadline, _name(context, name, group)
    return Session(called, spec, context.task, config.numerics.template_date, jobs, max(rows, 1), end)


def _mean_rows(job: Job) -> int:
    """Rows of a missing part on average: the last may be short, and so may be what an earlier attempt left."""
    left = job.step.missing_parts()
    return round(_source(job).num_rows(left) / max(len(left), 1))


def packed(context: Context, name: str, groups: Arranged) -> list[list[PackedGroup]]:
    """What there is to say of these groups before the first of them starts: endpoints, then turn by turn."""
    events = read_events(context.run.root)

    def told(group: Sequence[Wanted]) -> PackedGroup:
        return PackedGroup(
            _name(context, name, group),
            _placed(context, name, group)[1],
            sum(_source(item.job).num_rows(item.job.step.missing_parts()) for item in group),
            rate_before(events, [item.job.step.name for item in group]),
        )

    return [[told(group) for group in turn] for turn in (groups.beside, *groups.whole)]


def _placed(context: Context, name: str, group: Sequence[Wanted]) -> tuple[Session, Replicas]:
    """A group's session and its pool: no engine is started for which the others leave no part."""
    if group[0].endpoint:
        return _session(context, name, group, ENDPOINT_REPLICAS), ENDPOINT_REPLICAS
    speed = context.config.speed
    replicas = place(speed, context.resources_now())
    session = _session(context, name, group, replicas)
    return session, with_work(speed, replicas, -(-len(missing(session)) // in_flight(session)))


def _name(context: Context, name: str, group: Sequence[Wanted]) -> str:
    first = group[0]
    if first.endpoint:
        return f"{name} {ENDPOINT} {endpoint_called(context.config.method.collaborators, first.model, first.endpoint)}"
    who = "warm" if any(item.adapter for item in group) else "base"
    return f"{name} {who}" + ("" if first.model == context.model().name else f" {first.model}")


def _largest_rank(adapters: Mapping[str, str], rank: int) -> int:
    return max((adapter_rank(path) for path in adapters.values()), default=rank)


def _engine_numerics(quantization: str | None, engine_kwargs: dict[str, Any]) -> dict[str, Any]:
    return {**({"quantization": quantization} if quantization else {}), **engine_kwargs}


def _source(job: Job) -> Step:
    """The rows that a job answers."""
    return job.test if isinstance(job, PredictJob) else job.pool
