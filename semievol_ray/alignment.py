"""Rows of one part that are read together from several steps: the same ids, in the same order.

Invariant: no row is ever answered, judged or decided by what belongs to another, whatever was done to the files.
"""

from collections.abc import Iterable

import pyarrow as pa

from semievol_ray.errors import StorageError
from semievol_ray.steps import Step


def check_aligned(part: str, rows: tuple[Step, pa.Table], *others: tuple[Step, pa.Table]) -> None:
    """StorageError naming the part that does not fit, unless each table has the ids of the first one, in order."""
    step, table = rows
    wanted = table.column("id")
    for other, beside in others:
        found = beside.column("id")
        if not found.equals(wanted):
            raise _misfitting(part, step, other, _misfit(wanted, found))


def check_covers(part: str, rows: tuple[Step, pa.Table], other: tuple[Step, pa.Table]) -> None:
    """StorageError unless the other table has every id of the first, whatever else it has: joined by id, not by order.

    The first may be a later round's pool, which lacks rows of the one that the other was made for.
    """
    known = set(other[1].column("id").to_pylist())
    for row_id in rows[1].column("id").to_pylist():
        if row_id not in known:
            raise _misfitting(part, rows[0], other[0], f"row {row_id} is not in it")


def check_known(part: str, step: Step, kind: str, unknown: Iterable[object]) -> None:
    """StorageError when a part names ids (of this kind) that are not there: `unknown`, of which the first is told."""
    for first in unknown:
        raise StorageError(
            f"{step.part_path(part)} names the {kind} {first}, which is not there: a file was changed after it was "
            f"stored; `semievol verify {step.root}` says which and how to go on."
        )


def _misfitting(part: str, step: Step, other: Step, how: str) -> StorageError:
    return StorageError(
        f"{other.part_path(part)} does not fit {step.part_path(part)}: {how}. One of them was changed after it was "
        f"stored; `semievol verify {step.root}` says which and how to go on."
    )


def _misfit(wanted: pa.ChunkedArray, found: pa.ChunkedArray) -> str:
    """Where two columns of ids begin to differ, in words; rows counted from 1."""
    if len(wanted) != len(found):
        return f"it has {len(found)} rows and the other {len(wanted)}"
    ids = zip(wanted.to_pylist(), found.to_pylist(), strict=True)
    row, (there, here) = next((i, pair) for i, pair in enumerate(ids, start=1) if pair[0] != pair[1])
    order = ", so its rows are in another order" if sorted(wanted.to_pylist()) == sorted(found.to_pylist()) else ""
    return f"row {row} is {here} in it and {there} in the other{order}"
