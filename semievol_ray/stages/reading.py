"""Input files -> rows, one at a time: csv, jsonl and parquet; every fault names the file, the line and the remedy.

Invariant: nothing is guessed: a column is found by its exact name or the file is refused.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from semievol_ray.core.identity import normalise, row_id
from semievol_ray.errors import DataError
from semievol_ray.tasks import Task

_CSV_FIELD_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class InputRow:
    """One row as read: `answer` is canonical, None where the file has none; `line` counts from 1, header included."""

    id: str
    question: str
    options: list[str] | None
    group: str | None
    answer: str | None
    line: int


def read_rows(path: str, task: Task, *, needs_answer: bool) -> Iterator[InputRow]:
    """The rows of a file in order. Raises DataError for a missing or empty file, a wrong column or a bad value."""
    columns, count = task.columns, 0
    for line, record in _records(path):
        if count == 0:
            _check_columns(path, record, task, needs_answer)
        count += 1
        question = record.get(columns.question)
        if not isinstance(question, str) or not normalise(question):
            raise DataError(f"{path}, line {line}: column {columns.question!r} is empty. Every row needs a question.")
        options = _options(path, line, record.get(columns.options) if columns.options else None, columns.options)
        group = str(record[columns.group]) if columns.group and record.get(columns.group) is not None else None
        answer = _answer(path, line, record.get(columns.answer), task, options, needs_answer)
        yield InputRow(row_id(task.name, question, options), question, options, group, answer, line)
    if count == 0:
        raise DataError(f"{path} holds no rows. Give a file with at least one row.")


def _records(path: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{path}: there is no such file. Check the path under data: in the configuration.")
    try:
        match file.suffix.lower():
            case ".csv":
                yield from _csv(file)
            case ".jsonl" | ".ndjson":
                yield from _jsonl(file)
            case ".parquet":
                yield from _parquet(file)
            case other:
                raise DataError(f"{path}: {other or 'no'} suffix; files of rows are .csv, .jsonl or .parquet.")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}). Convert it to UTF-8."
        ) from None
    except (csv.Error, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as {file.suffix[1:]}: {error}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def _csv(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    csv.field_size_limit(_CSV_FIELD_LIMIT)
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, strict=True)
        line = 2
        for record in reader:
            if None in record or any(v is None for v in record.values()):
                raise DataError(
                    f"{file}, line {line}: the row has more or fewer fields than the header. "
                    "Put quotes around text that holds a comma or a line break."
                )
            yield line, {k: v if v != "" else None for k, v in record.items()}
            line = reader.line_num + 1


def _jsonl(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with file.open(encoding="utf-8-sig") as stream:
        for line, text in enumerate(stream, start=1):
            if not text.strip():
                continue
            try:
                record = json.loads(text)
            except ValueError as error:
                raise DataError(f"{file}, line {line}: not valid JSON ({error}). Each line is one object.") from None
            if not isinstance(record, dict):
                raise DataError(f"{file}, line {line}: a JSON object was expected, not {type(record).__name__}.")
            yield line, record


def _parquet(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    line = 1
    with pq.ParquetFile(file) as table:
        for batch in table.iter_batches(batch_size=1024):
            for record in batch.to_pylist():
                yield line, record
                line += 1


def _check_columns(path: str, record: Mapping[str, Any], task: Task, needs_answer: bool) -> None:
    wanted = [task.columns.question, task.columns.options, task.columns.answer if needs_answer else None]
    if lacking := [name for name in wanted if name is not None and name not in record]:
        raise DataError(
            f"{path}: column {', '.join(map(repr, lacking))} is missing; the file has {', '.join(map(repr, record))}. "
            "Name the right ones under data.columns."
        )


def _options(path: str, line: int, value: Any, column: str | None) -> list[str] | None:
    if column is None:
        return None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(v, str | int | float) for v in value):
        raise DataError(
            f"{path}, line {line}: column {column!r} is not a list of at least two options. "
            'Write it as JSON: ["first", "second"].'
        )
    return [str(v) for v in value]


def _answer(path: str, line: int, value: Any, task: Task, options: list[str] | None, needs_answer: bool) -> str | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        if needs_answer:
            raise DataError(
                f"{path}, line {line}: column {task.columns.answer!r} is empty. A labeled or test row needs its "
                "answer; rows without one belong in the unlabeled file."
            )
        return None
    try:
        return task.canonical_gold(str(value), options)
    except ValueError as error:
        raise DataError(f"{path}, line {line}: column {task.columns.answer!r}: {error}") from None
