"""Tables read side by side fit row by row, or the part that does not is named."""

from pathlib import Path

import pyarrow as pa
import pytest

from semievol_ray.alignment import check_aligned, check_covers, check_known
from semievol_ray.errors import StorageError
from semievol_ray.steps import Step

POOL = Step("/run/data/unlabeled", "data/unlabeled", ("part-00000",))
DRAFTS = Step("/run/rounds/0001/drafts/base_1", "rounds/0001/drafts/base_1", ("part-00000",))


def _table(*ids: str) -> pa.Table:
    return pa.table({"id": pa.chunked_array([ids[:1], ids[1:]], pa.string()), "beside": range(len(ids))})


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        ("abd", "row 3 is d in it and c in the other. One of them"),
        ("acb", "row 2 is c in it and b in the other, so its rows are in another order"),
        ("ab", "it has 2 rows and the other 3"),
        ("", "it has 0 rows and the other 3"),
    ],
)
def test_table_that_does_not_fit_is_named_with_the_first_row_that_differs(ids: str, told: str) -> None:
    same = (DRAFTS, pa.table({"id": list("abc")}))
    with pytest.raises(StorageError) as caught:
        check_aligned("part-00000", (POOL, _table(*"abc")), same, (DRAFTS, _table(*ids)))
    message = str(caught.value)
    assert message.startswith(f"{DRAFTS.path}/part-00000.parquet does not fit {POOL.path}/part-00000.parquet: ")
    assert told in message
    assert "`semievol verify /run`" in message


def test_table_that_is_joined_by_id_may_have_more_rows_and_not_fewer() -> None:
    check_covers("part-00000", (POOL, _table(*"ca")), (DRAFTS, _table(*"abc")))
    with pytest.raises(StorageError, match=r"base_1/part-00000\.parquet does not fit .*: row d is not in it"):
        check_covers("part-00000", (POOL, _table(*"ad")), (DRAFTS, _table(*"abc")))


def test_id_that_is_not_there_is_named() -> None:
    with pytest.raises(StorageError, match=r"base_1/part-00000\.parquet names the example x, which is not there"):
        check_known("part-00000", DRAFTS, "example", iter(["x", "y"]))


def test_rows_in_another_order_stop_whoever_reads_them_beside_others(tmp_path: Path) -> None:
    """Readers side by side refuse rows that were turned round, and drafts demonstrations of other rows."""
    import asyncio
    from collections.abc import Callable
    from typing import Any

    from semievol_ray import schema
    from semievol_ray.core.certificate import Certificate
    from semievol_ray.core.selection import Cut
    from semievol_ray.engines.base import Sampling
    from semievol_ray.label import labels_of
    from semievol_ray.stages.draft import DraftJob, draft_part
    from semievol_ray.stages.justify import JustifyJob, justify_part
    from semievol_ray.stages.select import Answered, Cuts, decided
    from semievol_ray.stages.train import Accepted, _pseudo_labelled

    def stored(name: str, columns: pa.Schema, ids: str) -> Step:
        step = Step(f"{tmp_path}/{name}", name, ("part-00000",))
        rows = [{"id": i, **({"num_copies": 1} if columns is schema.UNLABELED else {})} for i in ids]
        step.commit_part("part-00000", pa.Table.from_pylist(rows, schema=columns))
        return step

    pool, shown = stored("pool", schema.UNLABELED, "abc"), stored("shown", schema.EXAMPLES, "")
    sampling, asker = Sampling(0.0, 8), Any
    drafts = DraftJob(pool, pool, shown, stored("retrieve", schema.DEMONSTRATIONS, "cbx"), 1, sampling, None)
    justify = JustifyJob(pool, pool, (stored("drafts", schema.DRAFTS, "cba"),), sampling, None, "mean_nll")
    answered = Answered(pool, stored("justify", schema.JUSTIFIED, "cba"))
    turned, uncertified = stored("select", schema.SELECTION, "cba"), Certificate(None, None, None)
    readers: dict[str, Callable[[], Any]] = {
        "retrieve": lambda: asyncio.run(draft_part(drafts, "part-00000", asker)),  # type: ignore[arg-type]
        "drafts": lambda: asyncio.run(justify_part(justify, "part-00000", asker)),  # type: ignore[arg-type]
        "justify": lambda: decided(answered, "part-00000", Cuts("global", {"": Cut(1.0)})),
        "select": lambda: _pseudo_labelled(Accepted(pool, turned, 1), "part-00000", 1.0),
        "labels": lambda: list(labels_of(pool, stored("labels", schema.JUSTIFIED, "cba"), uncertified)),
    }
    for name, read in readers.items():
        with pytest.raises(
            StorageError, match=rf"{name}/part-00000\.parquet does not fit .*(another order|row a is not in it)"
        ):
            read()
