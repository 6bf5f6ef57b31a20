"""Input files -> rows, one at a time, with canonical answers; every fault names the file, the line and the remedy.

Invariant: nothing is guessed: a column is found by its exact name, a layout by its columns, or the file is refused.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from semievol_ray.core.answers import Choice, Number
from semievol_ray.core.identity import normalise, row_id
from semievol_ray.errors import DataError
from semievol_ray.stages.files import Record, records
from semievol_ray.stages.files import source_digest as source_digest
from semievol_ray.stages.formats import Layout, laid_out, layout_of
from semievol_ray.task import Task


@dataclass(frozen=True)
class InputRow:
    """One row as read: `answer` is canonical, None where the file has none; `line` counts from 1, header included.

    `mapped` where the file writes a letter otherwise: as a position, as the option's text or within a reply.
    """

    id: str
    question: str
    options: list[str] | None
    group: str | None
    answer: str | None
    line: int
    mapped: bool = False


def read_rows(path: str, task: Task, *, needs_answer: bool) -> Iterator[InputRow]:
    """The rows of a file in order. Raises DataError for a missing or empty file, a wrong column or a bad value."""
    count = 0
    layout: Layout | None = None
    for line, written in records(path):
        if count == 0:
            layout = layout_of(written, task)
            _check_columns(
                path, written if layout is None else _question(path, line, written, layout), task, needs_answer
            )
        count += 1
        record = written if layout is None else _question(path, line, written, layout)
        yield _row(path, line, record, task, layout, needs_answer)
    if count == 0:
        raise DataError(f"{path} holds no rows. Give a file with at least one row.")


def reading_note(path: str, task: Task) -> str | None:
    """One line on how a file is read where its columns are not the task's own; None where they are.

    Raises DataError for a file that cannot be read.
    """
    for _, record in records(path):
        layout = layout_of(record, task)
        return f"{path}: {layout.note}" if layout else None
    return None


def _question(path: str, line: int, record: Record, layout: Layout) -> Record:
    try:
        return laid_out(record, layout)
    except ValueError as error:
        raise DataError(f"{path}, line {line}: read as {layout.name}: {error}.") from None


def _row(path: str, line: int, record: Record, task: Task, layout: Layout | None, needs_answer: bool) -> InputRow:
    columns = task.columns
    question = record.get(columns.question)
    if not isinstance(question, str) or not normalise(question):
        raise DataError(f"{path}, line {line}: column {columns.question!r} is empty. Every row needs a question.")
    options = _options(path, line, record.get(columns.options) if columns.options else None, columns.options)
    group = str(record[columns.group]) if columns.group and record.get(columns.group) is not None else None
    gold = _gold(record.get(columns.answer), task)
    if gold is None and needs_answer:
        raise DataError(
            f"{path}, line {line}: column {_answer_column(task, layout)!r} is empty. A labeled or test row needs its "
            "answer; rows without one belong in the unlabeled file."
        )
    answer = None if gold is None else _answer(path, line, gold, task, options, layout)
    mapped = isinstance(task.format, Choice) and gold is not None and str(gold).strip().upper() != answer
    return InputRow(row_id(task.name, question, options), question, options, group, answer, line, mapped)


def _check_columns(path: str, record: Mapping[str, Any], task: Task, needs_answer: bool) -> None:
    wanted = [task.columns.question, task.columns.options, task.columns.answer if needs_answer else None]
    if lacking := [name for name in wanted if name is not None and name not in record]:
        raise DataError(
            f"{path}: column {', '.join(map(repr, lacking))} is missing; the file has {', '.join(map(repr, record))}. "
            "Name the right ones under data.columns."
        )


def _options(path: str, line: int, value: Any, column: str | None) -> list[str] | None:
    """A list of options, from a list, JSON text, {"text": [...]} (as ARC has it) or {"A": ..., "B": ...}."""
    if column is None:
        return None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if isinstance(value, Mapping):
        lettered = list(value) == list(ascii_uppercase[: len(value)])
        value = [v for v in value.values() if v is not None] if lettered else value.get("text")
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(v, str | int | float) for v in value):
        raise DataError(
            f"{path}, line {line}: column {column!r} is not a list of at least two options. "
            'Write it as JSON: ["first", "second"].'
        )
    return [str(v) for v in value]


def _answer_column(task: Task, layout: Layout | None) -> str:
    return layout.answer if layout else task.columns.answer


def _gold(value: Any, task: Task) -> str | list[str] | None:
    """A gold answer as text, several as a list of texts; None for an empty one and for NaN, pandas' empty cell."""
    if isinstance(value, Mapping):  # {"text": [...]} or {"spans": [...]}, as data sets with several golds have it
        value = value.get("text", value.get("spans", value))
    if isinstance(value, list):
        return [str(v) for v in value if v is not None and str(v).strip()] or None
    if value is None or value != value or not str(value).strip():
        return None
    whole = isinstance(value, float) and value.is_integer() and not isinstance(task.format, Number)
    return str(int(value)) if whole else str(value)


def _answer(
    path: str, line: int, gold: str | list[str], task: Task, options: list[str] | None, layout: Layout | None
) -> str:
    """The canonical answer; in a layout of whole replies one that is no answer as it stands is read as a completion."""
    try:
        return task.canonical_gold(gold, options)
    except ValueError as error:
        reply = task.parse(gold, options) if layout and layout.whole_replies and isinstance(gold, str) else None
        if reply is not None:
            return reply.answer
        raise DataError(f"{path}, line {line}: column {_answer_column(task, layout)!r}: {error}") from None
