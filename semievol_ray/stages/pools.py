"""Which rows a round answers: all of a pool, or what no earlier round accepted and nobody has labeled meanwhile.

Invariant: part i of a round's pool holds rows of part i of the ingested one, in order.
"""

from collections.abc import Callable, Sequence
from typing import Any

from semievol_ray import schema
from semievol_ray.core.selection import Decision
from semievol_ray.runs import Step
from semievol_ray.stages.cluster import map_parts
from semievol_ray.stages.context import Context
from semievol_ray.stages.counting import commit
from semievol_ray.stages.ingest import Data


def round_pool(context: Context, number: int, data: Data, selections: Sequence[Step], *, dev: bool = False) -> Step:
    """The rows that round `number` answers, of the pool or of the dev fold: all of them where nothing is left out."""
    rounds = context.config.method.rounds
    fold = data.dev if dev else data.pool
    assert fold is not None
    if dev:
        gone = frozenset(i for i, of in dev_slices(fold.rows, rounds.num).items() if of < number)
        people: list[Step] = []
    else:
        people = [step for from_round, step in data.annotations if from_round <= number]
        gone = ids_of(people)
    earlier = list(selections) if rounds.reanswer == "rejected" else []
    if not earlier and not gone:
        return fold.rows
    inputs = {"rows": fold.rows.digest()} | {f"round-{i}": s.digest() for i, s in enumerate(earlier, start=1)}
    inputs |= {f"annotated-{i:04d}": step.digest() for i, step in enumerate(people)}
    step = context.step(
        f"rounds/{number:04d}/{'dev/' if dev else ''}pool",
        settings={"slices": rounds.num} if dev else {},
        inputs=inputs,
        parts=fold.rows.parts,
    )
    if not step.committed():
        assert context.resources
        with context.progress.slow(step.name, len(step.missing_parts())) as bar:
            write_pool(step, fold.rows, earlier, gone, bar.advance)
        commit(context, step, {})
    return step


def write_pool(
    step: Step,
    pool: Step,
    selections: Sequence[Step],
    left_out: frozenset[str],
    on_part: Callable[[], None] = lambda: None,
) -> None:
    """Commit UNLABELED parts of `pool` without the rows that `selections` accepted and those in `left_out`."""
    for _ in map_parts(
        _write_pool, step.missing_parts(), step=step, pool=pool, selections=tuple(selections), left_out=left_out
    ):
        on_part()


def ids_of(steps: Sequence[Step]) -> frozenset[str]:
    """The ids in LABELED steps."""
    tables = (step.read_part(part, schema.LABELED) for step in steps for part in step.parts)
    return frozenset(i for table in tables for i in table.column("id").to_pylist())


def dev_slices(dev: Step, num_slices: int) -> dict[str, int]:
    """id -> the round, from 1, whose threshold the row alone may set: equal shares, dealt by id."""
    ids = sorted(i for part in dev.parts for i in dev.read_part(part, schema.UNLABELED).column("id").to_pylist())
    return {row_id: rank % num_slices + 1 for rank, row_id in enumerate(ids)}


def _write_pool(
    item: dict[str, Any], step: Step, pool: Step, selections: tuple[Step, ...], left_out: frozenset[str]
) -> dict[str, Any]:
    import pyarrow as pa

    part = item["part"]
    gone = set(left_out)
    for selection in selections:
        rows = selection.read_part(part, schema.SELECTION).to_pylist()
        gone |= {row["id"] for row in rows if row["decision"] == Decision.ACCEPTED.value}
    table = pool.read_part(part, schema.UNLABELED)
    kept = pa.array([row_id not in gone for row_id in table.column("id").to_pylist()], pa.bool_())
    left = table.filter(kept)
    step.commit_part(part, left)
    return {"rows": left.num_rows}
