"""Select: tau over all confidences of a round, then one decision for every row.

Invariant: part i's ids are input part i's ids in order, and a row is accepted exactly when its H <= tau.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from semievol_ray import schema
from semievol_ray.core.selection import Decision, decide, threshold, ties_excess
from semievol_ray.errors import NothingAcceptedError
from semievol_ray.runs import Step
from semievol_ray.stages.cluster import map_parts

TIES_WARNING_POINTS = 5.0


@dataclass(frozen=True)
class Selected:
    """What a selection came to; `ties_points` is the share kept above theta, in points of 100."""

    tau: float
    ties_points: float
    num_answered: int


def choose_threshold(justified: Step, theta: float) -> Selected:
    """tau = the ceil(theta R)-th smallest of the R non-null confidences. Raises NothingAcceptedError when R is 0."""
    read = map_parts(_confidences, justified.parts, justified=justified)
    values = np.concatenate([np.asarray(row["confidences"], dtype=np.float32) for row in read])
    if values.size == 0:
        raise NothingAcceptedError(
            f"{justified.path}: no row has a confidence, so none can be accepted. Look at a row with "
            "`semievol explain`: the answers may be unreadable, or cut off at max_tokens."
        )
    tau = threshold(values, theta)
    return Selected(tau, ties_excess(values, theta, tau), int(values.size))


def select(step: Step, pool: Step, justified: Step, tau: float, on_part: Callable[[Counter[str]], None]) -> None:
    """Commit SELECTION for every missing part; `on_part` gets the decisions of each."""
    for row in map_parts(_select_part, step.missing_parts(), step=step, pool=pool, justified=justified, tau=tau):
        on_part(Counter(dict(zip(row["decisions"], row["counts"], strict=True))))


def decisions(step: Step) -> Counter[str]:
    """How many rows of a committed selection have each decision."""
    found: Counter[str] = Counter(dict.fromkeys((d.value for d in Decision), 0))
    for part in step.parts:
        found.update(step.read_part(part, schema.SELECTION).column("decision").to_pylist())
    return found


def _confidences(item: dict[str, Any], justified: Step) -> dict[str, Any]:
    column = justified.read_part(item["part"], schema.JUSTIFIED).column("confidence")
    return {"confidences": column.drop_null().to_pylist()}


def _select_part(item: dict[str, Any], step: Step, pool: Step, justified: Step, tau: float) -> dict[str, Any]:
    part = item["part"]
    ids = pool.read_part(part, schema.UNLABELED).column("id").to_pylist()
    rows = justified.read_part(part, schema.JUSTIFIED).to_pylist()
    assert ids == [row["id"] for row in rows], f"{part} of {step.name} is not in the order of its pool"
    table = pa.Table.from_pylist([_selected(row, tau) for row in rows], schema=schema.SELECTION)
    step.commit_part(part, table)
    counts = Counter(table.column("decision").to_pylist())
    return {"decisions": list(counts), "counts": list(counts.values())}


def _selected(row: dict[str, Any], tau: float) -> dict[str, Any]:
    decision, reason = decide(row["answer"], row["confidence"], row["error"], tau)
    return {
        "id": row["id"],
        "label": row["answer"],
        "confidence": row["confidence"],
        "decision": decision.value,
        "reason": reason,
    }
