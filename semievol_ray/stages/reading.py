"""Input files -> rows, one at a time, with canonical answers; every fault names the file, the line and the remedy.

Invariant: nothing is guessed: a column is found by its exact name, a layout by its columns, or the file is refused.
"""

import json
import re
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
from semievol_ray.stages.sources import files_of
from semievol_ray.task import Task

_HALVES = re.compile("[\ud800-\udfff]")
REPLACED = "text holds halves of surrogate pairs, which UTF-8 cannot hold; U+FFFD stands in place of each"


@dataclass(frozen=True)
class InputRow:
    """One row as read: `answer` is canonical, None where the file has none; `line` counts from 1, header included.

    `mapped` where the file writes a letter otherwise: as a position, as the option's text or within a reply.
    `replaced` where a text held half of a surrogate pair, as scraped JSON does, in whose place U+FFFD stands.
    """

    id: str
    question: str
    options: list[str] | None
    group: str | None
    answer: str | None
    line: int
    mapped: bool = False
    replaced: bool = False


def read_rows(path: str, task: Task, *, needs_answer: bool) -> Iterator[InputRow]:
    """The rows of a file in order, or of several. Raises DataError for a missing or empty file and for a bad value."""
    count = 0
    for file in files_of(path):
        layout: Layout | None = None
        for number, (line, written) in enumerate(records(file)):
            if number == 0:
                layout = file_layout(file, written, task, needs_answer=needs_answer)
            count += 1
            yield as_row(file, line, written, task, layout, needs_answer=needs_answer)
    if count == 0:
        raise no_rows(path)


def file_layout(path: str, first: Record, task: Task, *, needs_answer: bool) -> Layout | None:
    """How a file is laid out, by its first record. Raises DataError where a column is missing."""
    layout = layout_of(first, task)
    record = first if layout is None else _question(path, 1, first, layout)
    wanted = [task.columns.question, task.columns.options, task.columns.answer if needs_answer else None]
    if lacking := [name for name in wanted if name is not None and name not in record]:
        raise DataError(
            f"{path}: column {', '.join(map(repr, lacking))} is missing; the file has {', '.join(map(repr, record))}. "
            "Name the right ones under data.columns."
        )
    return layout


def as_row(path: str, line: int, written: Record, task: Task, layout: Layout | None, *, needs_answer: bool) -> InputRow:
    """The row of one record. Raises DataError naming file, line and column."""
    record = written if layout is None else _question(path, line, written, layout)
    return _row(path, line, record, task, layout, needs_answer)


def no_rows(path: str) -> DataError:
    """What a file, or files, without any row are refused with."""
    return DataError(f"{path} holds no rows. Give a file with at least one row.")


def reading_note(path: str, task: Task) -> str | None:
    """One line on how a file is read where its columns are not the task's own; None where they are.

    Raises DataError for a file that cannot be read.
    """
    for file in files_of(path):
        for _, record in records(file):
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
    read = (question, options, group, gold)
    question, options, group, gold = whole = tuple(map(_whole, read))
    answer = None if gold is None else _answer(path, line, gold, task, options, layout)
    mapped = isinstance(task.format, Choice) and gold is not None and str(gold).strip().upper() != answer
    row = row_id(task.name, question, options)
    return InputRow(row, question, options, group, answer, line, mapped, whole != read)


def _whole(value: Any) -> Any:
    """A text, or the texts of a list, with U+FFFD in place of every half of a surrogate pair."""
    if isinstance(value, str):
        return value if value.isascii() else _HALVES.sub("\ufffd", value)
    return [_whole(text) for text in value] if isinstance(value, list) else value


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
