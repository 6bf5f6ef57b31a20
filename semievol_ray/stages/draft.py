"""Drafts: one collaborator's answers to one part of the pool.

Invariant: a draft sees the question, its options and labeled demonstrations, never the row's own gold answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import pyarrow as pa

from semievol_ray import schema
from semievol_ray.alignment import check_covers, check_known
from semievol_ray.core.prompts import Demonstration, Message, question_messages, side_by_side
from semievol_ray.engines.base import Sampling
from semievol_ray.runs import Step
from semievol_ray.stages.answering import Asker, Row, gathered
from semievol_ray.stages.justify import candidates_of


@dataclass(frozen=True)
class DraftJob:
    """What one collaborator does in a round; `adapter` is the name under which the engine serves it, None the base.

    `shown` holds the EXAMPLES that `demonstrations` names; `instruction` None is the task's. With `chosen` an answer
    can only be one of the task's closed set.
    """

    step: Step
    pool: Step
    shown: Step
    demonstrations: Step | None
    num_demonstrations: int
    sampling: Sampling
    adapter: str | None
    instruction: str | None = None
    chosen: bool = False


async def draft_part(job: DraftJob, part: str, asker: Asker) -> pa.Table:
    """The collaborator's DRAFTS for one part, in input order; asked in one that lets the engine reuse prompts."""
    table = job.pool.read_part(part, schema.UNLABELED)
    rows, shown = table.to_pylist(), _shown(job, part, table, asker)
    order = side_by_side([nearest[::-1] for nearest in shown])
    asked = await gathered([_draft(job, rows[i], shown[i], asker) for i in order])
    answers = dict(zip(order, asked, strict=True))
    drafts = [{"id": row["id"], **answers[i]} for i, row in enumerate(rows)]
    return pa.Table.from_pylist(drafts, schema=schema.DRAFTS)


async def _draft(job: DraftJob, row: Mapping[str, Any], nearest: list[Demonstration], asker: Asker) -> Row:
    question = asker.task.render_question(row["question"], row["options"])
    instruction = asker.task.instruction if job.instruction is None else job.instruction

    def render(k: int) -> tuple[Message, ...]:
        # the nearest stands last, beside the question
        return question_messages(instruction, question, nearest[:k][::-1])

    sampling = job.sampling
    if job.chosen:
        candidates = candidates_of(asker.task, row["options"])
        sampling = replace(sampling, choices=tuple(map(asker.task.render_answer, candidates)))
    return await asker.ask(render, len(nearest), row["options"], sampling, job.adapter)


def _shown(job: DraftJob, part: str, rows: pa.Table, asker: Asker) -> list[list[Demonstration]]:
    """Each row's demonstrations, nearest first, in the order of the rows."""
    if job.demonstrations is None:
        return [[] for _ in range(rows.num_rows)]
    rendered = {
        i: Demonstration(asker.task.render_question(r["question"], r["options"]), asker.task.render_answer(r["answer"]))
        for i, r in _examples(job.shown).items()
    }
    table = job.demonstrations.read_part(part, schema.DEMONSTRATIONS)
    check_covers(part, (job.pool, rows), (job.demonstrations, table))
    ids = zip(table.column("id").to_pylist(), table.column("demonstration_ids").to_pylist(), strict=True)
    nearest = {row_id: found[: job.num_demonstrations] for row_id, found in ids}
    named = (i for found in nearest.values() for i in found)
    check_known(part, job.demonstrations, "example", (i for i in named if i not in rendered))
    return [[rendered[i] for i in nearest[row_id]] for row_id in rows.column("id").to_pylist()]


@lru_cache(maxsize=1)
def _examples(step: Step) -> dict[str, Row]:
    return {row["id"]: row for part in step.parts for row in step.read_part(part, schema.EXAMPLES).to_pylist()}
