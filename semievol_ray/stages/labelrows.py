"""Rows to be labelled, cut into parts as they stand in their file: repeats stay, and so does their order.

Invariant: as in the pool, nothing that grows with the rows is in the driver; what the file has for answers is unread
by everything after this.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from semievol_ray import schema
from semievol_ray.runs import Step
from semievol_ray.stages import chunks
from semievol_ray.stages.cluster import map_parts
from semievol_ray.stages.context import Context
from semievol_ray.stages.counting import commit
from semievol_ray.stages.cutter import Cutter, means_of, part_rows
from semievol_ray.stages.pool import SMALL_BYTES
from semievol_ray.stages.poolread import Pool, owners, read_chunk
from semievol_ray.stages.reading import no_rows, reading_note
from semievol_ray.stages.scaffold import remove, resumed
from semievol_ray.stages.sources import file_sizes, sources_digest


def source_of_rows(path: str) -> tuple[dict[str, int], str]:
    """The files that a path names with their bytes, and the digest of what is in them. Raises DataError."""
    sizes = file_sizes(path)
    return sizes, sources_digest(path, tuple(sizes))


def cut_rows(context: Context, path: str, name: str) -> Step:
    """The committed step `name`: the rows of a file, or of several, as UNLABELED. Raises DataError for bad rows."""
    cutter = Cutter(context.run, context.config, context.task, means_of(context))
    sizes, digest = source_of_rows(path)
    settings, inputs, reading = cutter.settings(None), {"file": digest}, f"{name.rpartition('/')[0]}/read"
    if done := cutter.done(name, settings, inputs):
        remove(context.run, reading)
        return done
    if note := reading_note(path, context.task):
        context.progress.say(note)
    mapped = partial(_mapped, context, sum(sizes.values()) <= SMALL_BYTES)
    read = _read(context, path, reading, sizes, mapped, settings, inputs)
    counts = tuple(read.lengths())
    pool = Pool(read, read, counts, _size(context, name, settings, inputs, sum(counts)))
    rows = context.run.step(
        name, settings=settings, inputs=inputs, parts=pool.parts, numerics={"part_rows": pool.part_rows}
    )
    for _ in mapped(cut_read, owners(pool, rows.missing_parts()), pool=pool, rows=rows):
        pass
    commit(context, rows, {"read": pool.num_rows})
    remove(context.run, read.name)
    return rows


def cut_read(item: dict[str, Any], pool: Pool, rows: Step) -> dict[str, Any]:
    """Commit the parts whose first row lies in a chunk; `item` names it. Rows that were read are all kept here."""
    nth = pool.read.parts.index(item["part"])
    begin, end = sum(pool.num_kept[:nth]), sum(pool.num_kept[: nth + 1])
    first, last = -(-begin // pool.part_rows), -(-end // pool.part_rows)
    table = _from_chunk(pool, nth, min(last * pool.part_rows, pool.num_rows) - begin)
    for number in range(first, last):
        rows.commit_part(rows.parts[number], table.slice(number * pool.part_rows - begin, pool.part_rows))
    return {"part": item["part"], "num_rows": end - begin}


def _from_chunk(pool: Pool, nth: int, num_rows: int) -> pa.Table:
    """So many rows, from the first one of chunk `nth` on."""
    tables = [schema.UNLABELED.empty_table()]
    for chunk in pool.read.parts[nth:]:
        if sum(table.num_rows for table in tables) >= num_rows:
            break
        tables.append(_unlabeled(pool.read, chunk))
    return pa.concat_tables(tables).slice(0, num_rows)


def _unlabeled(read: Step, chunk: str) -> pa.Table:
    """The rows of a chunk of POOL_READ as UNLABELED."""
    table = read.read_part(chunk, schema.POOL_READ, schema.UNLABELED.names[:-1])
    ids = pa.array([row_id.hex() for row_id in table.column("id").to_pylist()], pa.string())
    ones = pa.array([1] * table.num_rows, pa.int32())
    return table.set_column(0, "id", ids).append_column("num_copies", ones).cast(schema.UNLABELED)


def _read(
    context: Context,
    path: str,
    name: str,
    sizes: Mapping[str, int],
    mapped: chunks.Mapped,
    settings: dict[str, Any],
    inputs: dict[str, str],
) -> Step:
    """The rows as read, chunk by chunk; a step that stands until they are cut."""
    resumed(context.run, name, settings, inputs)
    cut = chunks.chunks_of(sizes, mapped)
    step = context.run.step(name, settings=settings, inputs=inputs, parts=list(cut))
    for _ in mapped(read_chunk, step.missing_parts(), step=step, files=tuple(sizes), chunks=cut, task=context.task):
        pass
    commit(context, step, {})
    if not step.num_rows():
        raise no_rows(path)
    return step


def _size(context: Context, name: str, settings: dict[str, Any], inputs: dict[str, str], num_rows: int) -> int:
    """Rows of a part: as the step was begun with, or as the configuration says now."""
    record = resumed(context.run, name, settings, inputs)
    if record is not None:
        return int(record["numerics"]["part_rows"])
    return part_rows(context.config.speed.part_rows, num_rows)


def _mapped(
    context: Context, is_small: bool, function: Any, parts: Sequence[str], **constants: Any
) -> Iterable[Mapping[str, Any]]:
    """What a function makes of each part: in this process where the files are small, else in Ray tasks."""
    if is_small:
        return [function({"part": part}, **constants) for part in parts]
    if parts:
        assert context.resources
    return map_parts(function, parts, **constants)
