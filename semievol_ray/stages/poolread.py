"""What a task does with a chunk of the pool's input: read it, and later cut the parts that begin in it.

Invariant: what a task commits depends on its chunk and the verdict alone, so that any attempt writes the same bytes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa

from semievol_ray import schema
from semievol_ray.errors import DataError
from semievol_ray.runs import Step
from semievol_ray.stages.chunks import Chunks
from semievol_ray.stages.cutter import part_names
from semievol_ray.stages.hub import is_hub
from semievol_ray.stages.ranges import Piece, first_record, piece_records, with_line
from semievol_ray.stages.reading import InputRow, as_row, file_layout
from semievol_ray.tasks import Task

_ROWS_AT_ONCE = 16_384


@dataclass(frozen=True)
class Pool:
    """The steps of a pool that is being cut: as read, the verdict on its rows, and the two that stay.

    num_kept: rows of each chunk that stay, in order. part_rows: rows of each part but the last.
    """

    read: Step
    kept: Step
    num_kept: tuple[int, ...]
    part_rows: int

    @property
    def num_rows(self) -> int:
        return sum(self.num_kept)

    @property
    def parts(self) -> list[str]:
        """The names of the parts that the rows are cut into."""
        return part_names(-(-self.num_rows // self.part_rows))


def read_chunk(item: dict[str, Any], step: Step, files: Sequence[str], chunks: Chunks, task: Task) -> dict[str, Any]:
    """Commit the rows of a chunk as POOL_READ. Raises DataError naming file, line and remedy."""
    rows = (row for piece in chunks[item["part"]] for row in _piece_rows(files[piece.file], piece, task))
    batches, seen = [], _Seen()
    while block := list(islice(rows, _ROWS_AT_ONCE)):
        batches.append(_batch(block, seen))
    step.commit_part(item["part"], pa.Table.from_batches(batches, schema.POOL_READ))
    return {"part": item["part"], "num_rows": sum(batch.num_rows for batch in batches)}


def cut_chunk(item: dict[str, Any], pool: Pool, rows: Step, gold: Step) -> dict[str, Any]:
    """Commit the parts, of UNLABELED and of GOLD, whose first row lies in a chunk; `item` names it."""
    nth = pool.read.parts.index(item["part"])
    begin, end = sum(pool.num_kept[:nth]), sum(pool.num_kept[: nth + 1])
    first, last = -(-begin // pool.part_rows), -(-end // pool.part_rows)
    skipped, wanted = first * pool.part_rows - begin, min(last * pool.part_rows, pool.num_rows) - first * pool.part_rows
    table = _kept_rows(pool, nth, skipped + wanted).slice(skipped)
    for number, part in enumerate(pool.parts[first:last]):
        cut = table.slice(number * pool.part_rows, pool.part_rows)
        rows.commit_part(part, cut.select(schema.UNLABELED.names).cast(schema.UNLABELED))
        gold.commit_part(part, cut.select(schema.GOLD.names).cast(schema.GOLD))
    return {"part": item["part"], "num_rows": wanted}


def owners(pool: Pool, parts: Sequence[str]) -> list[str]:
    """The chunks in which these parts begin."""
    wanted, found, end = set(parts), [], 0
    names = pool.parts
    for chunk, num in zip(pool.read.parts, pool.num_kept, strict=True):
        begin, end = end, end + num
        if wanted.intersection(names[-(-begin // pool.part_rows) : -(-end // pool.part_rows)]):
            found.append(chunk)
    return found


def _kept_rows(pool: Pool, nth: int, num_rows: int) -> pa.Table:
    """So many of the rows that stay, from those of chunk `nth` on."""
    tables: list[pa.Table] = []
    while nth < len(pool.num_kept) and sum(table.num_rows for table in tables) < num_rows:
        if pool.num_kept[nth]:
            tables.append(_kept_of(pool, pool.read.parts[nth]))
        nth += 1
    return pa.concat_tables(tables).slice(0, num_rows)


def _kept_of(pool: Pool, chunk: str) -> pa.Table:
    kept = pool.kept.read_part(chunk, schema.POOL_KEPT)
    table = pool.read.read_part(chunk, schema.POOL_READ).take(kept.column("position"))
    ids = pa.array([row_id.hex() for row_id in table.column("id").to_pylist()], pa.string())
    return table.set_column(0, "id", ids).append_column("num_copies", kept.column("num_copies"))


def _piece_rows(path: str, piece: Piece, task: Task) -> Iterator[InputRow]:
    """The rows of a piece; where one is wrong the line is counted from the beginning of the file before it is told."""
    try:
        yield from _rows(path, piece, task)
    except DataError:
        if not piece.line:
            for _ in _rows(path, with_line(path, piece), task):
                pass
        raise


def _rows(path: str, piece: Piece, task: Task) -> Iterator[InputRow]:
    records = piece_records(path, piece)
    head = next(records, None)
    if head is None:
        return
    at_start = piece.line == 1 or is_hub(path)
    layout = file_layout(path, (head[1] if at_start else first_record(path)) or head[1], task, needs_answer=False)
    yield as_row(path, *head, task, layout, needs_answer=False)
    for line, record in records:
        yield as_row(path, line, record, task, layout, needs_answer=False)


class _Seen:
    """Whether a chunk had a mapped answer already, of which only the first is told in full."""

    def __init__(self) -> None:
        self.mapped = False

    def example(self, row: InputRow) -> str | None:
        if self.mapped or not row.mapped:
            return None
        self.mapped = True
        return f"{row.answer}"


def _batch(rows: Sequence[InputRow], seen: _Seen) -> pa.RecordBatch:
    columns = [
        [bytes.fromhex(row.id) for row in rows],
        [row.question for row in rows],
        [row.options for row in rows],
        [row.group for row in rows],
        [row.answer for row in rows],
        [row.mapped for row in rows],
        [row.replaced for row in rows],
        [seen.example(row) for row in rows],
    ]
    typed = zip(columns, schema.POOL_READ, strict=True)
    return pa.record_batch([pa.array(values, field.type) for values, field in typed], schema=schema.POOL_READ)
