"""Predict: greedy zero-demonstration answers of one model to one part of the test split.

Invariant: the gold answer is joined after the model has answered.
"""

from dataclasses import dataclass

import pyarrow as pa

from semievol_ray import schema
from semievol_ray.core.prompts import Message, question_messages
from semievol_ray.engines.base import Sampling
from semievol_ray.runs import Step
from semievol_ray.stages.answering import Asker, Row, gathered


@dataclass(frozen=True)
class PredictJob:
    """The evaluation of one model; `adapter` None asks the base model."""

    step: Step
    test: Step
    adapter: str | None
    max_tokens: int


async def predict_part(job: PredictJob, part: str, asker: Asker) -> pa.Table:
    """PREDICTIONS for one part, in input order."""
    rows = job.test.read_part(part, schema.LABELED).to_pylist()
    answers = await gathered([_predict(job, row, asker) for row in rows])
    return pa.Table.from_pylist(
        [_prediction(row, answer, asker) for row, answer in zip(rows, answers, strict=True)], schema=schema.PREDICTIONS
    )


async def _predict(job: PredictJob, row: Row, asker: Asker) -> Row:
    question = asker.task.render_question(row["question"], row["options"])

    def render(_: int) -> tuple[Message, ...]:
        return question_messages(asker.task.instruction, question, ())

    return await asker.ask(render, 0, row["options"], Sampling(0.0, job.max_tokens), job.adapter)


def _prediction(row: Row, answer: Row, asker: Asker) -> Row:
    correct = answer["answer"] is not None and asker.task.equal(answer["answer"], row["answer"])
    return {"id": row["id"], **answer, "gold": row["answer"], "correct": correct, "group": row["group"]}
