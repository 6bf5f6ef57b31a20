"""`semievol export`: a run's pseudo-labels with their provenance, as chat rows, parquet or JSON lines.

Invariant: the answer column is left to people: no pseudo-label is ever put there. Parts are read and written one by
one, so that memory does not grow with the rows.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from semievol_ray import folders, storage
from semievol_ray.core.prompts import question_messages
from semievol_ray.errors import StorageError, UserError
from semievol_ray.outcomes import Outcomes, Row, Which, open_outcomes, rows_by_part
from semievol_ray.tasks import Task

Format = Literal["messages", "parquet", "jsonl"]


@dataclass(frozen=True)
class Exported:
    """The file that was written; `num_left_out` rows had no label, so that no chat row could be made of them."""

    path: str
    num_rows: int
    num_left_out: int = 0


def export_data(root: str, which: Which, fmt: Format, out: str | None = None, *, force: bool = False) -> Exported:
    """Write the rows of a run that were `accepted`, `rejected` (any other decision) or `all` to one file.

    Without `out` it lies in the run's folder `exports`. Rejected rows that people labeled since are left out. Raises
    UserError when the folder is no run, no round is selected yet, or the file exists and `force` is not given.
    """
    outcomes = open_outcomes(root)
    path = out or f"{root}/exports/{which}{'-messages' if fmt == 'messages' else ''}.{_SUFFIX[fmt]}"
    if storage.exists(path) and not force:
        raise UserError(f"{path} exists already. Name another file with --out, or add --force to replace it.")
    num_rows, num_left_out = 0, 0
    with _written(path, outcomes, fmt) as write:
        for rows in rows_by_part(outcomes, which):
            kept = [row for row in rows if fmt != "messages" or row["label"] is not None]
            num_rows, num_left_out = num_rows + len(kept), num_left_out + len(rows) - len(kept)
            write(kept)
    return Exported(path, num_rows, num_left_out)


def fields(outcomes: Outcomes) -> list[tuple[str, str, pa.DataType]]:
    """(column of the file, name of the value, type) of parquet and JSON lines, in order.

    Question, options, group and the empty answer stand under the task's own column names, so that `data.annotations`
    and `data.labeled` read the file as it is; another field of the same name is prefixed with semievol_.
    """
    text, columns = pa.string(), outcomes.task.columns
    texts = pa.list_(text)
    own = [("question", columns.question, text), ("options", columns.options, texts), ("answer", columns.answer, text)]
    own += [("group", columns.group, text)]
    named = [(column, name, kind) for name, column, kind in own if column is not None]
    taken = {column for column, _, _ in named}
    about = [("label", text), ("confidence", pa.float32()), ("decision", text), ("reason", text), ("round", pa.int32()),
             ("vote", text), ("vote_share", pa.float32()), ("label_source", text), ("source", text),
             ("num_copies", pa.int32()),
             ("answers", pa.struct([(name, text) for name in outcomes.collaborators])),
             ("provenance", pa.struct([(name, text) for name in ("run", "select", "justify")]))]  # fmt: skip
    free = [(f"semievol_{name}" if name in taken else name, name, kind) for name, kind in [("id", text), *about]]
    return [free[0], *named, *free[1:]]


def chat_row(task: Task, row: Row) -> Row:
    """The row as the trainer sees it: instruction, question, label rendered as an answer; the rest as metadata."""
    question = task.render_question(row["question"], row["options"])
    turns = [{"role": m.role, "content": m.content} for m in question_messages(task.instruction, question, ())]
    told = {key: value for key, value in row.items() if key not in ("question", "options")}
    return {"messages": [*turns, {"role": "assistant", "content": task.render_answer(row["label"])}], "metadata": told}


_SUFFIX: dict[Format, str] = {"messages": "jsonl", "jsonl": "jsonl", "parquet": "parquet"}


@contextmanager
def _written(path: str, outcomes: Outcomes, fmt: Format) -> Iterator[Callable[[list[Row]], None]]:
    """A function that adds rows to the file, which appears, whole, when the block ends well."""
    with tempfile.TemporaryDirectory(prefix="semievol-") as scratch:
        unfinished = Path(scratch, "export") if storage.is_remote(path) else Path(f"{path}.{os.getpid()}.partial")
        with _written_here(unfinished, path, outcomes, fmt) as add:
            yield add


@contextmanager
def _written_here(
    unfinished: Path, path: str, outcomes: Outcomes, fmt: Format
) -> Iterator[Callable[[list[Row]], None]]:
    storage.make_folder(str(unfinished.parent))
    try:
        with unfinished.open("wb") as file, _adding(file, outcomes, fmt) as add:
            yield add
        if storage.is_remote(path):
            folders.put_file(str(unfinished), path)
        else:
            unfinished.replace(path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}. Name another file with --out.") from error
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def _adding(file: IO[bytes], outcomes: Outcomes, fmt: Format) -> Iterator[Callable[[list[Row]], None]]:
    columns = fields(outcomes)
    if fmt == "parquet":
        types = pa.schema([(column, kind) for column, _, kind in columns])
        with pq.ParquetWriter(file, types, compression="zstd") as writer:
            yield lambda rows: writer.write_table(
                pa.Table.from_pylist([_named(r, columns) for r in rows], schema=types)
            )
        return
    if fmt == "messages":
        yield lambda rows: _add_lines(file, (chat_row(outcomes.task, row) for row in rows))
    else:
        empty = {outcomes.task.columns.answer: ""}
        yield lambda rows: _add_lines(file, ({**_named(row, columns), **empty} for row in rows))


def _named(row: Row, columns: list[tuple[str, str, pa.DataType]]) -> Row:
    return {column: row.get(name) for column, name, _ in columns}


def _add_lines(file: IO[bytes], rows: Iterator[Row]) -> None:
    file.writelines(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
