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
from semievol_ray.stages.evaluate import known_right


@dataclass(frozen=True)
class PredictJob:
    """The evaluation of one model; `adapter` None asks the base model.

    `embedder_path` is set where answers agree by their embeddings.
    """

    step: Step
    test: Step
    adapter: str | None
    max_tokens: int
    embedder_path: str | None = None


async def predict_part(job: PredictJob, part: str, asker: Asker) -> pa.Table:
    """PREDICTIONS for one part, in input order."""
    rows = job.test.read_part(part, schema.LABELED).to_pylist()
    answers = await gathered([_predict(job, row, asker) for row in rows])
    golds = [row["answer"] for row in rows]
    right = known_right([answer["answer"] for answer in answers], golds, asker.task, job.embedder_path)
    return pa.Table.from_pylist([*map(_prediction, rows, answers, right)], schema=schema.PREDICTIONS)


async def _predict(job: PredictJob, row: Row, asker: Asker) -> Row:
    question = asker.task.render_question(row["question"], row["options"])

    def render(_: int) -> tuple[Message, ...]:
        return question_messages(asker.task.instruction, question, ())

    return await asker.ask(render, 0, row["options"], Sampling(0.0, job.max_tokens), job.adapter)


def _prediction(row: Row, answer: Row, correct: bool) -> Row:
    return {"id": row["id"], **answer, "gold": row["answer"], "correct": correct, "group": row["group"]}
