"""Justify: M_warm sees each question with the drafts' answers and answers again, greedily (eq. 5); its H is the row's.

Invariant: `confidence` is one quantity over all rows of a round, null where no whole readable answer was given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from semievol_ray import schema
from semievol_ray.core.consensus import Vote, shuffled, tally
from semievol_ray.core.prompts import Message, justification_messages
from semievol_ray.engines.base import Sampling
from semievol_ray.runs import Step
from semievol_ray.stages.answering import Asker, Row, gathered

Estimator = Literal["mean_nll", "answer_nll", "vote_entropy"]


@dataclass(frozen=True)
class JustifyJob:
    """A round's justifications; `drafts` are the collaborators' steps in configured order."""

    step: Step
    pool: Step
    drafts: tuple[Step, ...]
    sampling: Sampling
    adapter: str
    confidence: Estimator


async def justify_part(job: JustifyJob, part: str, asker: Asker) -> pa.Table:
    """JUSTIFIED for one part whose drafts are all committed, in input order."""
    rows = job.pool.read_part(part, schema.UNLABELED).to_pylist()
    drafts = [step.read_part(part, schema.DRAFTS).column("answer").to_pylist() for step in job.drafts]
    answers = list(zip(*drafts, strict=True))
    votes = [tally(a, asker.task.equal) for a in answers]
    replies = await gathered([_justify(job, row, a, asker) for row, a in zip(rows, answers, strict=True)])
    table = [
        _justified(job, row, list(a), vote, reply)
        for row, a, vote, reply in zip(rows, answers, votes, replies, strict=True)
    ]
    return pa.Table.from_pylist(table, schema=schema.JUSTIFIED)


async def _justify(job: JustifyJob, row: Mapping[str, Any], answers: Sequence[str | None], asker: Asker) -> Row:
    question = asker.task.render_question(row["question"], row["options"])
    candidates = shuffled(row["id"], answers)

    def render(_: int) -> tuple[Message, ...]:
        return justification_messages(asker.task.instruction, question, candidates)

    return await asker.ask(render, 0, row["options"], job.sampling, job.adapter)


def _justified(job: JustifyJob, row: Row, answers: list[str | None], vote: Vote, reply: Row) -> Row:
    whole = reply["finish_reason"] == "stop"  # cut off at max_tokens: no H, whatever the estimator
    h = vote.entropy if job.confidence == "vote_entropy" else reply[job.confidence]
    return {
        "id": row["id"],
        "answers": answers,
        "vote": vote.answer,
        "vote_share": vote.share,
        "vote_entropy": vote.entropy,
        **reply,
        "confidence": h if whole and reply["answer"] is not None else None,
    }
