"""Where a pool is cut for reading: chunks of a few megabytes, each one or more pieces of its files.

Invariant: cutting depends on the files and the size alone, and the rows of a file are not looked at, but for a csv's:
quoted line breaks make a pass over it necessary, which only finds the borders.
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from semievol_ray.errors import DataError
from semievol_ray.stages.files import CSV_FIELD_LIMIT, opened
from semievol_ray.stages.ranges import Piece, text_lines

CHUNK_BYTES = 8 << 20
"""About 50,000 short rows: half a second to read, and some 60 MB in the task that does."""

MOST_ROWS, BYTES_DECODED = 65_536, 4
"""Rows of a piece of parquet at most; how many times CHUNK_BYTES they may be once decoded."""

Chunks = dict[str, tuple[Piece, ...]]
Mapped = Callable[..., Iterable[Mapping[str, Any]]]


def chunks_of(sizes: Mapping[str, int], mapped: Mapped) -> Chunks:
    """Name -> pieces, in the order of the rows, of files with their bytes. Raises DataError.

    mapped: does a function for each large csv file, in tasks.
    """
    large = [file for file, size in sizes.items() if size > CHUNK_BYTES and _suffix(file) == ".csv"]
    borders = {row["part"]: row["borders"] for row in mapped(csv_borders, large)}
    pieces = (
        piece
        for number, (file, size) in enumerate(sizes.items())
        for piece in _pieces(number, file, size, borders.get(file))
    )
    return {f"chunk-{i:05d}": chunk for i, chunk in enumerate(_packed(pieces, list(sizes.values())))}


def csv_borders(item: dict[str, Any]) -> dict[str, Any]:
    """(offset, line) of about every CHUNK_BYTES-th byte of a csv at which a row begins, the end with it.

    None for a file that the reader does not get through: reading it as a whole tells what is wrong.
    """
    borders: list[list[int]] = []
    csv.field_size_limit(CSV_FIELD_LIMIT)
    with opened(item["part"]) as file:
        lines = _Offsets(file)
        reader = csv.reader(lines, strict=True)
        try:
            next(reader, None)
            borders.append([lines.offset, reader.line_num + 1])
            for _ in reader:
                if lines.is_whole and lines.offset - borders[-1][0] >= CHUNK_BYTES:
                    borders.append([lines.offset, reader.line_num + 1])
        except (csv.Error, UnicodeDecodeError):
            return {"part": item["part"], "borders": []}
    return {"part": item["part"], "borders": [*borders, [lines.offset, 0]]}


class _Offsets:
    """The lines of a binary file as text, how many bytes were handed out, and whether a line feed was the last."""

    def __init__(self, file: Iterable[bytes]) -> None:
        self._file, self.offset, self.is_whole = file, 0, True

    def __iter__(self) -> Iterator[str]:
        for raw in self._file:
            for line in text_lines(raw.decode("latin-1")):  # a byte a letter: that it is UTF-8 shows when it is read
                self.offset += len(line)
                self.is_whole = line.endswith("\n")
                yield line


def _suffix(file: str) -> str:
    return PurePosixPath(file).suffix.lower()


def _pieces(number: int, file: str, size: int, borders: Sequence[Sequence[int]] | None) -> list[Piece]:
    match _suffix(file):
        case ".jsonl" | ".ndjson" if size:
            starts = range(0, size, CHUNK_BYTES)
            return [Piece(number, at, min(at + CHUNK_BYTES, size), 0 if at else 1) for at in starts]
        case ".parquet" if size > CHUNK_BYTES:
            return [Piece(number, start, stop, start + 1) for start, stop in _parquet_ranges(file)]
        case ".csv" if borders:
            ends = [end for end, _ in borders[1:]]
            return [Piece(number, at, end, line) for (at, line), end in zip(borders[:-1], ends, strict=True)]
    return [Piece(number)]


def _parquet_ranges(file: str) -> Iterator[tuple[int, int]]:
    """Ranges of rows that decode to a few CHUNK_BYTES each, by the sizes in the footer."""
    try:
        with opened(file) as stream:
            found = pq.read_metadata(stream)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read as parquet: {error} It may be cut short; copy it again.") from None
    decoded = sum(found.row_group(i).total_byte_size for i in range(found.num_row_groups))
    rows = max(1, min(MOST_ROWS, found.num_rows * CHUNK_BYTES * BYTES_DECODED // max(1, decoded)))
    return ((start, min(start + rows, found.num_rows)) for start in range(0, found.num_rows, rows))


def _packed(pieces: Iterable[Piece], sizes: Sequence[int]) -> Iterator[tuple[Piece, ...]]:
    """Small files together, up to CHUNK_BYTES a chunk; each piece of a large one alone."""
    together: list[Piece] = []
    num_bytes = 0
    for piece in pieces:
        size = sizes[piece.file]
        if together and num_bytes + size > CHUNK_BYTES:
            yield tuple(together)
            together, num_bytes = [], 0
        together.append(piece)
        num_bytes += size
    if together:
        yield tuple(together)
