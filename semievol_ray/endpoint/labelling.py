"""POST /v1/label: one row in, its label, H and verdict out, by the very procedure that `semievol label` follows.

Invariant: a row is read as a data file's record is, under the task's own column names; an answer in it is not used.
"""

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from semievol_ray.core.certificate import verdict
from semievol_ray.endpoint.models import Serving
from semievol_ray.endpoint.replies import RefusedError, json_object
from semievol_ray.engines.base import Generator
from semievol_ray.errors import DataError
from semievol_ray.stages.answering import Asker, Load
from semievol_ray.stages.justify import answered_alone
from semievol_ray.stages.reading import as_row

ROW = "the row"


async def label(serving: Serving, engine: Generator, load: Load, http: HttpRequest) -> Response:
    """The verdict on the row in a request. Raises RefusedError for a row that cannot be read."""
    record = dict(await json_object(http))
    record.pop(serving.task.columns.answer, None)
    if serving.task.columns.question not in record:
        wanted = serving.task.columns.question
        raise RefusedError(400, f"{ROW} lacks {wanted!r}; it has {', '.join(map(repr, record)) or 'no columns'}")
    try:
        row = as_row(ROW, 1, record, serving.task, None, needs_answer=False)
    except DataError as error:
        raise RefusedError(400, str(error)) from None
    asker = Asker(engine, serving.task, serving.spec.max_model_len, serving.template_date, load, [])
    asked = {"id": row.id, "question": row.question, "options": row.options, "group": row.group}
    found = await answered_alone(serving.labelling.manner, asked, asker)
    passes, why = verdict(serving.labelling.certificate, found["label"], found["confidence"], found["error"])
    return JSONResponse(
        {
            "id": row.id,
            "label": found["label"],
            "confidence": found["confidence"],
            "passes": passes,
            "why": why,
            "model": serving.labelling.model,
        }
    )
