"""Records of a piece of a file: a range of bytes of jsonl or csv, a range of rows of parquet, or a whole file.

Invariant: the pieces of a file together hold each of its records once, whatever the borders; a jsonl line belongs to
the piece in which it begins.
"""

import csv
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from semievol_ray.errors import DataError
from semievol_ray.stages.files import CSV_FIELD_LIMIT, Record, csv_record, opened, records

_BOM = b"\xef\xbb\xbf"
_BLOCK = 1 << 20
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_BATCH = 1024


@dataclass(frozen=True)
class Piece:
    """A range of one of several files: bytes of jsonl and csv, rows of parquet; the whole file where `stop` is None.

    file: position in the list of files. line: the one that the piece begins on, 0 where nobody counted yet (jsonl).
    """

    file: int
    start: int = 0
    stop: int | None = None
    line: int = 1


def piece_records(path: str, piece: Piece) -> Iterator[tuple[int, Record]]:
    """(line, record) of a piece, lines counted from 1 in a piece without a line. Raises DataError naming the file."""
    if piece.stop is None:
        yield from records(path)
        return
    with _translated(path):
        match PurePosixPath(path).suffix.lower():
            case ".csv":
                yield from _csv(path, piece, piece.stop)
            case ".parquet":
                yield from _parquet(path, piece.start, piece.stop)
            case _:
                yield from _jsonl(path, piece, piece.stop)


def first_record(path: str) -> Record | None:
    """The first record of a file, which decides how all are read; None for a file without rows."""
    return next((record for _, record in records(path)), None)


def with_line(path: str, piece: Piece) -> Piece:
    """The piece with the line that its first record begins on; for jsonl the file is read up to there."""
    if piece.line:
        return piece
    num_lines, left = 0, _first_line_start(path, piece.start)
    with opened(path) as file:
        while left and (block := file.read(min(_BLOCK, left))):
            num_lines, left = num_lines + block.count(b"\n"), left - len(block)
    return replace(piece, line=num_lines + 1)


def byte_lines(file: BinaryIO, stop: int) -> Iterator[bytes]:
    """The lines that begin before the offset `stop`, from where the file stands, each with its end."""
    position = file.tell()
    while position < stop and (raw := file.readline()):
        position += len(raw)
        yield raw


def text_lines(raw: str) -> list[str]:
    """The lines of one that a line feed ends: carriage returns end lines too, as csv counts them."""
    if "\r" not in raw or (raw.endswith("\r\n") and raw.count("\r") == 1):
        return [raw]
    return _LINE.findall(raw)


def _first_line_start(path: str, start: int) -> int:
    with opened(path) as file:
        file.seek(start - 1)
        file.readline()
        return file.tell()


def _jsonl(path: str, piece: Piece, stop: int) -> Iterator[tuple[int, Record]]:
    with opened(path) as file:
        if piece.start:  # a line that the border cuts belongs to the piece before
            file.seek(piece.start - 1)
            file.readline()
        for line, raw in enumerate(byte_lines(file, stop), start=piece.line or 1):
            text = raw.removeprefix(_BOM) if line == 1 and not piece.start else raw
            if text := text.strip():
                yield line, _json_record(path, line, text, is_whole=raw.endswith(b"\n"))


def _json_record(path: str, line: int, text: bytes, *, is_whole: bool) -> Record:
    try:
        record = json.loads(text.decode())
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, line {line}: not UTF-8 text ({error.reason}). Convert the file to UTF-8.") from None
    except ValueError as error:
        cut = "" if is_whole else " The file ends within this line: it may be cut short; copy it again."
        raise DataError(f"{path}, line {line}: not valid JSON ({error}). Each line is one object.{cut}") from None
    if not isinstance(record, dict):
        raise DataError(f"{path}, line {line}: a JSON object was expected, not {type(record).__name__}.")
    return record


def _csv(path: str, piece: Piece, stop: int) -> Iterator[tuple[int, Record]]:
    """Rows of a range that begins and ends at the border of a row, under the header of the file."""
    csv.field_size_limit(CSV_FIELD_LIMIT)
    with opened(path) as file:
        header = next(csv.reader((line for raw in file for line in text_lines(raw.decode("utf-8-sig"))), strict=True))
        file.seek(piece.start)
        lines = (line for raw in byte_lines(file, stop) for line in text_lines(raw.decode()))
        reader = csv.DictReader(lines, header, strict=True)
        line = piece.line
        for record in reader:
            yield line, csv_record(path, line, record)
            line = piece.line + reader.line_num


def _parquet(path: str, start: int, stop: int) -> Iterator[tuple[int, Record]]:
    """Rows start to stop, out of the row groups that hold them."""
    with opened(path) as file, pq.ParquetFile(file) as table:
        begin = 0
        for group in range(table.num_row_groups):
            end = begin + table.metadata.row_group(group).num_rows
            if begin < stop and start < end:
                yield from _group_rows(table, group, begin, start, stop)
            begin = end


def _group_rows(table: pq.ParquetFile, group: int, begin: int, start: int, stop: int) -> Iterator[tuple[int, Record]]:
    """The rows of a group, of which the first has the position `begin` in the file, that lie from start to stop."""
    for batch in table.iter_batches(batch_size=_BATCH, row_groups=[group]):
        wanted = batch.slice(max(0, start - begin), max(0, stop - max(begin, start)))
        yield from enumerate(wanted.to_pylist(), start=max(begin, start) + 1)
        begin += batch.num_rows
        if begin >= stop:
            return


@contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason}). Convert it to UTF-8.") from None
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as csv: {error}") from None
    except pa.ArrowException as error:
        raise DataError(f"{path} cannot be read as parquet: {error} It may be cut short; copy it again.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}. Copy it again, or mend its disk.") from None
