"""The oracle's labels: the whole pool with its gold answers, as labeled rows.

Invariant: this is the one place where gold answers of the pool become labels, and only a study's oracle, a ceiling that
is no result of any method, is fine-tuned on them.
"""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray import schema
from semievol_ray.runs import Step
from semievol_ray.stages.cluster import map_parts
from semievol_ray.stages.ingest import Fold


def write_gold_labeled(step: Step, pool: Fold) -> int:
    """Commit LABELED parts: the pool's rows with their gold answers; how many rows have none.

    A part with such a row is not committed: a ceiling of some rows would be none.
    """
    return sum(row["unknown"] for row in map_parts(_label_part, step.missing_parts(), step=step, pool=pool))


def _label_part(item: dict[str, Any], step: Step, pool: Fold) -> dict[str, Any]:
    rows = pool.rows.read_part(item["part"], schema.UNLABELED)
    gold = pool.gold.read_part(item["part"], schema.GOLD)
    places = pc.index_in(rows.column("id"), gold.column("id"))  # near duplicates may have gone from the rows alone
    assert not places.null_count, f"{item['part']}: rows of the pool are missing among the gold answers"
    answers = gold.column("answer").take(places)
    if not answers.null_count:
        named = {name: rows.column(name) for name in schema.LABELED.names if name != "answer"}
        step.commit_part(item["part"], pa.table({**named, "answer": answers}, schema=schema.LABELED))
    return {"unknown": answers.null_count}
