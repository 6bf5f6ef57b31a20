"""Justify: M_warm sees each question with the drafts' answers and answers again, greedily (eq. 5); H of what is kept.

Invariant: `confidence` is one quantity over all rows of a round, null where no whole readable answer was kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import pyarrow as pa

from semievol_ray import schema
from semievol_ray.alignment import check_aligned
from semievol_ray.core.answers import Choice, Labels
from semievol_ray.core.confidence import answer_posterior, mean_nll
from semievol_ray.core.consensus import Vote, shuffled, tally
from semievol_ray.core.parsing import by_letter
from semievol_ray.core.prompts import Message, justification_messages, question_messages
from semievol_ray.engines.base import Sampling
from semievol_ray.methodconfig import Confidence
from semievol_ray.runs import Step
from semievol_ray.stages.agreeing import equality
from semievol_ray.stages.answering import Asker, Row, gathered
from semievol_ray.tasks import Task


@dataclass(frozen=True)
class JustifyJob:
    """A round's justifications; `drafts` are the collaborators' steps in configured order.

    Without drafts the model answers the plain question alone. `embedder_path` is set where answers agree by their
    embeddings.
    """

    step: Step
    pool: Step
    drafts: tuple[Step, ...]
    sampling: Sampling
    adapter: str | None
    confidence: Confidence
    when: Literal["always", "split", "never"] = "always"
    embedder_path: str | None = None


async def justify_part(job: JustifyJob, part: str, asker: Asker) -> pa.Table:
    """JUSTIFIED for one part whose drafts are all committed, in input order."""
    asked = job.pool.read_part(part, schema.UNLABELED)
    drafts = [(step, step.read_part(part, schema.DRAFTS)) for step in job.drafts]
    check_aligned(part, (job.pool, asked), *drafts)
    rows = asked.to_pylist()
    by_row = list(zip(*(table.to_pylist() for _, table in drafts), strict=True)) or [()] * len(rows)
    equal = equality(asker.task, job.embedder_path, (draft["answer"] for of_row in by_row for draft in of_row))
    votes = [tally([draft["answer"] for draft in of_row], equal) for of_row in by_row]
    table = await gathered([_justified(job, *of_row, asker) for of_row in zip(rows, by_row, votes, strict=True)])
    return pa.Table.from_pylist(table, schema=schema.JUSTIFIED)


class Manner(Protocol):
    """How one model is asked for an answer and its H; a JustifyJob is such, and so is a model asked without drafts."""

    @property
    def sampling(self) -> Sampling: ...
    @property
    def adapter(self) -> str | None: ...
    @property
    def confidence(self) -> Confidence: ...
    @property
    def when(self) -> Literal["always", "split", "never"]: ...


async def answered_alone(manner: Manner, row: Row, asker: Asker) -> Row:
    """One row of JUSTIFIED, of a model that sees no drafts: its own greedy answer to the plain question, and H."""
    return await _justified(manner, row, (), tally((), asker.task.equal), asker)


async def _justified(job: Manner, row: Row, drafts: Sequence[Row], vote: Vote, asker: Asker) -> Row:
    answers = [draft["answer"] for draft in drafts]
    reply = await _justify(job, row, answers, asker) if is_asked(job.when, vote) else _not_asked(drafts)
    label, source = kept_answer(vote, reply if is_asked(job.when, vote) else None)
    cut_off = _is_cut_off(vote, drafts) if source == "vote" else reply["finish_reason"] == "length"
    confidence = None
    if label is not None and not cut_off:
        confidence = await _confidence(job, row, vote, reply, label, asker)
    return {
        "id": row["id"],
        "answers": answers,
        "vote": vote.answer,
        "vote_share": vote.share,
        "vote_entropy": vote.entropy,
        **reply,
        "label": label,
        "label_source": source,
        "confidence": confidence,
    }


def is_asked(when: Literal["always", "split", "never"], vote: Vote) -> bool:
    """Whether a row with this vote is justified."""
    return when == "always" or (when == "split" and not vote.unanimous)


def kept_answer(vote: Vote, justification: Mapping[str, Any] | None) -> tuple[str | None, str | None]:
    """The label of a row and where it comes from: its justification where one was asked for, else the vote."""
    answer, source = (vote.answer, "vote") if justification is None else (justification["answer"], "justification")
    return answer, source if answer is not None else None


def _is_cut_off(vote: Vote, drafts: Sequence[Row]) -> bool:
    """Whether every draft that gave the vote's answer ended at max_tokens: it has no H then, whatever the estimator."""
    return all(drafts[place]["finish_reason"] == "length" for place in vote.givers)


def _not_asked(drafts: Sequence[Row]) -> Row:
    """The completion columns of a row whose vote is kept as it is; an error where every draft failed."""
    empty = dict.fromkeys(["text", "answer", "finish_reason", "mean_nll", "answer_nll"])
    failures = [draft["error"] for draft in drafts if draft["error"] is not None]
    error = failures[0] if len(failures) == len(drafts) else None
    return {**empty, "num_prompt_tokens": 0, "num_tokens": 0, "error": error}


async def _justify(job: Manner, row: Mapping[str, Any], answers: Sequence[str | None], asker: Asker) -> Row:
    question = asker.task.render_question(row["question"], row["options"])
    candidates = shuffled(row["id"], answers)
    different = list(dict.fromkeys(candidates))
    told = [*(different[:k] for k in range(len(different) + 1)), candidates]  # repeats go first where not all fit

    def render(k: int) -> tuple[Message, ...]:
        return justification_messages(asker.task.instruction, question, told[k])

    return await asker.ask(render, len(told) - 1, row["options"], job.sampling, job.adapter)


async def _confidence(job: Manner, row: Row, vote: Vote, reply: Row, label: str, asker: Asker) -> float | None:
    """H of the kept answer; None where it cannot be scored."""
    match job.confidence:
        case "mean_nll" | "answer_nll":
            own: float | None = reply[job.confidence]
            return own
        case "vote_entropy":
            return vote.entropy
        case "scored_nll":
            logprobs = await asker.score(_plain(row, asker.task), label, job.adapter, end_of_turn=False)
            return None if logprobs is None else mean_nll(logprobs)
        case "answer_posterior":
            return await _posterior(job, row, label, asker)


async def _posterior(job: Manner, row: Row, label: str, asker: Asker) -> float | None:
    """-log of the kept answer's share of the probability of all candidates' rendered texts, end of turn included."""
    candidates = candidates_of(asker.task, row["options"])
    scores = await asker.scores(_plain(row, asker.task), candidates, job.adapter, end_of_turn=True)
    return None if scores is None else answer_posterior([sum(logprobs) for logprobs in scores], candidates.index(label))


def candidates_of(task: Task, options: Sequence[str] | None) -> list[str]:
    """Every answer of a closed answer set, canonical, in order; ValueError for a task with an open one."""
    match task.format:
        case Labels(labels=labels):
            return list(labels)
        case Choice():
            return list(by_letter(options))
    raise ValueError(f"task {task.name} has no closed set of answers")


def _plain(row: Mapping[str, Any], task: Task) -> tuple[Message, ...]:
    """The zero-demonstration question, as M_warm was taught it."""
    return question_messages(task.instruction, task.render_question(row["question"], row["options"]), ())
