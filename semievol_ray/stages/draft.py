"""Drafts: one collaborator's answers to one part of the pool.

Invariant: a draft sees the question, its options and labeled demonstrations, never the row's own gold answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa

from semievol_ray import schema
from semievol_ray.core.prompts import Demonstration, Message, question_messages
from semievol_ray.engines.base import Sampling
from semievol_ray.runs import Step
from semievol_ray.stages.answering import Asker, Row, gathered


@dataclass(frozen=True)
class DraftJob:
    """What one collaborator does in a round; `adapter` is the name under which the engine serves it, None the base.

    `shown` holds the EXAMPLES that `demonstrations` names; `instruction` None is the task's.
    """

    step: Step
    pool: Step
    shown: Step
    demonstrations: Step | None
    num_demonstrations: int
    sampling: Sampling
    adapter: str | None
    instruction: str | None = None


async def draft_part(job: DraftJob, part: str, asker: Asker) -> pa.Table:
    """The collaborator's DRAFTS for one part, in input order."""
    rows = job.pool.read_part(part, schema.UNLABELED).to_pylist()
    shown = _shown(job, part, asker)
    answers = await gathered([_draft(job, row, shown.get(row["id"], []), asker) for row in rows])
    drafts = [{"id": row["id"], **answer} for row, answer in zip(rows, answers, strict=True)]
    return pa.Table.from_pylist(drafts, schema=schema.DRAFTS)


async def _draft(job: DraftJob, row: Mapping[str, Any], nearest: list[Demonstration], asker: Asker) -> Row:
    question = asker.task.render_question(row["question"], row["options"])
    instruction = asker.task.instruction if job.instruction is None else job.instruction

    def render(k: int) -> tuple[Message, ...]:
        # the nearest stands last, beside the question
        return question_messages(instruction, question, nearest[:k][::-1])

    return await asker.ask(render, len(nearest), row["options"], job.sampling, job.adapter)


def _shown(job: DraftJob, part: str, asker: Asker) -> dict[str, list[Demonstration]]:
    """Each row's demonstrations, nearest first."""
    if job.demonstrations is None:
        return {}
    rendered = {
        i: Demonstration(asker.task.render_question(r["question"], r["options"]), asker.task.render_answer(r["answer"]))
        for i, r in _examples(job.shown).items()
    }
    table = job.demonstrations.read_part(part, schema.DEMONSTRATIONS)
    return {
        row["id"]: [rendered[i] for i in row["demonstration_ids"][: job.num_demonstrations]]
        for row in table.to_pylist()
    }


@lru_cache(maxsize=1)
def _examples(step: Step) -> dict[str, Row]:
    return {row["id"]: row for part in step.parts for row in step.read_part(part, schema.EXAMPLES).to_pylist()}
