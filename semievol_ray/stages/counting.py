"""What the parts of a step hold, read once for its commit: SHA-256 and rows of each, and what a job's answers came to.

Invariant: each part is read once and whole; the driver holds a SHA-256 and two numbers a part, never a row.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.compute as pc

from semievol_ray.listing import PartFacts, num_readers, part_facts
from semievol_ray.runs import Step
from semievol_ray.stages.cluster import map_parts
from semievol_ray.stages.context import Context
from semievol_ray.stages.jobs import COLUMNS, Job
from semievol_ray.stages.justify import JustifyJob

DRIVER_PARTS = 1024
"""As many parts are read by the driver's own threads in less time than tasks need to start; more by tasks of Ray."""

_TOKENS = ("num_tokens", "num_prompt_tokens")
_SUMS = ("num_rows", "num_errors", "num_unreadable", *_TOKENS)


@dataclass(frozen=True)
class Counted:
    """Rows, errors, unreadable answers and tokens of a job's parts, the first error, and the facts of each part."""

    sums: Counter[str]
    first_error: str | None
    facts: Mapping[str, PartFacts]


def commit(context: Context, step: Step, metrics: Mapping[str, object]) -> None:
    """Commit a step of any number of parts."""
    with context.progress.slow(f"read {step.name}", len(step.parts)) as bar:
        context.run.commit(step, metrics, measure=lambda step: facts_of(step, lambda: context.resources, bar.advance))


def facts_of(
    step: Step, start: Callable[[], object], on_part: Callable[[], None] = lambda: None
) -> dict[str, PartFacts]:
    """The facts of each part, in order; `start` is called where Ray is needed."""
    found = dict[str, PartFacts]()
    for row in _each(_fact, step, start):
        found[row["part"]] = _facts(row)
        on_part()
    return {part: found[part] for part in step.parts}


def counted(job: Job, start: Callable[[], object], on_part: Callable[[], None]) -> Counted:
    """What the committed parts of a job hold, and their facts."""
    found, errors, sums = dict[str, PartFacts](), dict[str, str](), Counter[str]()
    for row in _each(_count, job.step, start, job=job):
        found[row["part"]] = _facts(row)
        sums.update({name: int(row[name]) for name in _SUMS})
        if row["num_errors"]:
            errors[row["part"]] = str(row["first_error"])
        on_part()
    first_error = next((errors[part] for part in job.step.parts if part in errors), None)
    return Counted(sums, first_error, {part: found[part] for part in job.step.parts})


def _each(
    function: Callable[..., dict[str, Any]], step: Step, start: Callable[[], object], **constants: Any
) -> Iterator[dict[str, Any]]:
    """What a function makes of each part, in no order."""
    if len(step.parts) > DRIVER_PARTS:
        start()
        yield from map_parts(function, step.parts, **{"step": step, **constants})
        return
    with ThreadPoolExecutor(num_readers(step.path)) as readers:
        yield from readers.map(lambda part: function({"part": part}, **{"step": step, **constants}), step.parts)


def _facts(row: Mapping[str, Any]) -> PartFacts:
    return PartFacts(str(row["sha256"]), int(row["num_rows"]))


def _fact(item: dict[str, Any], step: Step) -> dict[str, Any]:
    return {"part": item["part"], **asdict(part_facts(step.part_path(item["part"])))}


def _count(item: dict[str, Any], step: Step, job: Job) -> dict[str, Any]:
    answer = "label" if isinstance(job, JustifyJob) else "answer"
    facts, table = step.measure_part(item["part"], COLUMNS[type(job)], ["error", answer, *_TOKENS])
    errors = table.column("error").drop_null()
    return {
        "part": item["part"],
        **asdict(facts),
        "num_errors": len(errors),
        "num_unreadable": table.column(answer).null_count - len(errors),
        **{name: pc.sum(table.column(name)).as_py() or 0 for name in _TOKENS},
        "first_error": str(errors[0]) if len(errors) else "",
    }
