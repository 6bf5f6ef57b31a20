"""What a session does, as plain values that travel to its actors: jobs over parts, and the report of each part.

Invariant: nothing here holds a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from semievol_ray import schema
from semievol_ray.engines.base import EngineSpec
from semievol_ray.runs import Step
from semievol_ray.stages.answering import Asker
from semievol_ray.stages.draft import DraftJob, draft_part
from semievol_ray.stages.justify import JustifyJob, justify_part
from semievol_ray.stages.predict import PredictJob, predict_part
from semievol_ray.tasks import Task

Job = DraftJob | JustifyJob | PredictJob
COLUMNS = {DraftJob: schema.DRAFTS, JustifyJob: schema.JUSTIFIED, PredictJob: schema.PREDICTIONS}


@dataclass(frozen=True)
class Session:
    """What every actor of a pool is given: its engine, the task, and the jobs in the order a part meets them.

    `deadline`: seconds since the epoch, after which no part is worked on.
    """

    name: str
    spec: EngineSpec
    task: Task
    template_date: str
    jobs: tuple[Job, ...]
    part_rows: int
    deadline: float | None = None


@dataclass(frozen=True)
class PartReport:
    """What the driver learns of one committed part; `start_seconds` is what its engine took to start.

    `attempt` counts from 1: the tries that it took, those that ended with their engine too. `num_looked_up` prompt
    tokens were sought in the engine's prefix cache since its last report, of whatever part, and `num_found` were there.
    """

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
    num_looked_up: int = 0
    num_found: int = 0
    start_seconds: float = 0.0
    attempt: int = 1


def missing(session: Session) -> dict[str, list[int]]:
    """part -> indices of the session's jobs that still miss it, drafts before the justification that reads them."""
    work: dict[str, list[int]] = {}
    for index, job in enumerate(session.jobs):
        for part in job.step.missing_parts():
            work.setdefault(f"{source_of(job).path}/{part}", []).append(index)
    return work


def source_of(job: Job) -> Step:
    """The rows that a job answers."""
    return job.test if isinstance(job, PredictJob) else job.pool


def sequence(jobs: Sequence[Job]) -> tuple[Job, ...]:
    """Jobs in the order in which parts should be done: predictions, drafts, then justifications."""
    order = {PredictJob: 0, DraftJob: 1, JustifyJob: 2}
    return tuple(sorted(jobs, key=lambda job: order[type(job)]))


async def answered(job: Job, part: str, asker: Asker) -> pa.Table:
    """The output of a job for one part, in input order."""
    match job:
        case DraftJob():
            return await draft_part(job, part, asker)
        case JustifyJob():
            return await justify_part(job, part, asker)
        case PredictJob():
            return await predict_part(job, part, asker)


@dataclass(frozen=True)
class SlicedStep(Step):
    """A step of whose parts only the rows [first, last) are read."""

    first: int = 0
    last: int = 0

    def read_part(self, part: str, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
        return super().read_part(part, schema, columns).slice(self.first, self.last - self.first)


def sliced(job: Job, rows: tuple[int, int]) -> Job:
    """The same job over some rows of a part: [first, last) of its input, and of the drafts that it reads."""

    def cut(step: Step) -> Step:
        return SlicedStep(**vars(step), first=rows[0], last=rows[1])

    match job:
        case PredictJob():
            return replace(job, test=cut(job.test))
        case JustifyJob():
            return replace(job, pool=cut(job.pool), drafts=tuple(map(cut, job.drafts)))
        case DraftJob():
            return replace(job, pool=cut(job.pool))
