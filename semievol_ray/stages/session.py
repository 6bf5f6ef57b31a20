"""A session: one engine group in a Ray Data actor pool answers parts until none of its jobs has one missing.

Invariant: Ray Data carries part names and small reports, never rows; an actor commits each part itself.
"""

import asyncio
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from semievol_ray import schema
from semievol_ray.engines.base import EngineSpec
from semievol_ray.engines.opening import open_generator
from semievol_ray.errors import EngineDiedError, RunStopped
from semievol_ray.placement import Replicas
from semievol_ray.stages.answering import Asker, Load
from semievol_ray.stages.cluster import streamed
from semievol_ray.stages.draft import DraftJob, draft_part
from semievol_ray.stages.justify import JustifyJob, justify_part
from semievol_ray.stages.predict import PredictJob, predict_part
from semievol_ray.tasks import Task

Job = DraftJob | JustifyJob | PredictJob
MAX_ATTEMPTS = 3
NUM_SAMPLES = 3
COLUMNS = {DraftJob: schema.DRAFTS, JustifyJob: schema.JUSTIFIED, PredictJob: schema.PREDICTIONS}


@dataclass(frozen=True)
class Session:
    """What every actor of a pool is given: its engine, the task, and the jobs in the order a part meets them."""

    name: str
    spec: EngineSpec
    task: Task
    template_date: str
    jobs: tuple[Job, ...]
    part_rows: int


@dataclass(frozen=True)
class PartReport:
    """What the driver learns of one committed part."""

    step: str
    part: str
    replica: str
    node: str
    num_rows: int
    num_errors: int
    num_tokens: int
    num_prompt_tokens: int
    seconds: float
    median_outstanding: float
    first_error: str | None
    num_unreadable: int
    unreadable: list[str]


def missing(session: Session) -> dict[str, list[int]]:
    """part -> indices of the session's jobs that still miss it, drafts before the justification that reads them."""
    work: dict[str, list[int]] = {}
    for index, job in enumerate(session.jobs):
        for part in job.step.missing_parts():
            work.setdefault(f"{_pool_of(job)}/{part}", []).append(index)
    return work


def run_session(
    session: Session, replicas: Replicas, on_report: Callable[[PartReport], None], on_stats: Callable[[str], None]
) -> None:
    """Do every missing part; `on_report` is called in the driver as parts commit, `on_stats` once at the end.

    Raises what `on_report` raises (which ends the session), and RunStopped when a part has ended MAX_ATTEMPTS engines.
    """
    import ray

    work = missing(session)
    if not work:
        return
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    items = [{"part": name.rsplit("/", 1)[1], "jobs": jobs} for name, jobs in work.items()]
    rows = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        EngineWorker,
        fn_constructor_args=(session,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            size=replicas.num,
            max_concurrent_calls_per_actor=in_flight(session),
            max_tasks_in_flight_per_actor=in_flight(session),
        ),
        num_cpus=replicas.cpus_each,
        num_gpus=replicas.gpus_each,
    )
    for row in streamed(rows):
        for report in row["reports"]:
            on_report(PartReport(**report))
    on_stats(rows.stats())


def in_flight(session: Session) -> int:
    """Parts one actor works on at once, enough for 2 x max_num_seqs requests."""
    spec = session.spec
    max_num_seqs = int(spec.speed.get("max_num_seqs", 256 if spec.on_gpu else 64))
    max_num_seqs = spec.endpoint.max_concurrency if spec.endpoint else max_num_seqs
    num_drafts = sum(isinstance(job, DraftJob) for job in session.jobs)
    return max(2, -(-2 * max_num_seqs // (session.part_rows * max(num_drafts, 1))) + 1)


def _pool_of(job: Job) -> str:
    return job.test.path if isinstance(job, PredictJob) else job.pool.path


class EngineWorker:
    """The actor: hosts the session's engine and commits parts."""

    def __init__(self, session: Session) -> None:
        import ray

        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        context = ray.get_runtime_context()
        self._replica, self._node = context.get_actor_id() or "", context.get_node_id()
        seed = random.Random(f"{session.spec.seed}/{session.name}/{self._replica}").randrange(2**31)
        engine = open_generator(replace(session.spec, seed=seed))
        self._session = session
        self._asker = Asker(engine, session.task, session.spec.max_model_len, session.template_date, Load(), [])

    async def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        part, indices = str(batch["part"][0]), [int(i) for i in batch["jobs"][0]]
        jobs = [self._session.jobs[i] for i in indices]
        try:
            first = [self._commit(job, part) for job in jobs if not isinstance(job, JustifyJob)]
            reports = list(await asyncio.gather(*first))
            reports += [await self._commit(job, part) for job in jobs if isinstance(job, JustifyJob)]
        except EngineDiedError:
            os._exit(1)  # Ray starts another actor and gives it the part again
        return {"reports": [[asdict(report) for report in reports]]}

    async def _commit(self, job: Job, part: str) -> PartReport:
        """Answer and commit a part; one that an actor committed before it died is only reported."""
        began, seen, columns = time.monotonic(), list[int](), COLUMNS[type(job)]
        if job.step.has_part(part):
            table = job.step.read_part(part, columns)
        else:
            table = await self._answer(job, part, replace(self._asker, seen=seen))
            if not job.step.commit_part(part, table):
                table = job.step.read_part(part, columns)
        errors = [e for e in table.column("error").to_pylist() if e is not None]
        read = zip(table.column("text").to_pylist(), table.column("answer").to_pylist(), strict=True)
        unreadable = [text for text, answer in read if text is not None and answer is None]
        return PartReport(
            step=job.step.name,
            part=part,
            replica=self._replica,
            node=self._node,
            num_rows=table.num_rows,
            num_errors=len(errors),
            num_tokens=sum(table.column("num_tokens").to_pylist()),
            num_prompt_tokens=sum(table.column("num_prompt_tokens").to_pylist()),
            seconds=round(time.monotonic() - began, 3),
            median_outstanding=float(statistics.median(seen or [0])),
            first_error=errors[0] if errors else None,
            num_unreadable=len(unreadable),
            unreadable=unreadable[:NUM_SAMPLES],
        )

    async def _answer(self, job: Job, part: str, asker: Asker) -> pa.Table:
        tries = [a for a in job.step.attempts(part) if a["fence"] == job.step.fence]
        if len(tries) >= MAX_ATTEMPTS:
            raise RunStopped(f"{part} of {job.step.name} ended its engine {len(tries)} times; see the run's logs")
        job.step.begin_attempt(part, replica=self._replica, node=self._node)
        match job:
            case DraftJob():
                return await draft_part(job, part, asker)
            case JustifyJob():
                return await justify_part(job, part, asker)
            case PredictJob():
                return await predict_part(job, part, asker)


def sequence(jobs: Sequence[Job]) -> tuple[Job, ...]:
    """Jobs in the order in which parts should be done: predictions, drafts, then justifications."""
    order = {PredictJob: 0, DraftJob: 1, JustifyJob: 2}
    return tuple(sorted(jobs, key=lambda job: order[type(job)]))
