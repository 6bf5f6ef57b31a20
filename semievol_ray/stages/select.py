"""Select: the round's cuts give every row one decision.

Invariant: part i's ids are input part i's ids in order, and a row is accepted exactly when every cut keeps it.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from semievol_ray import schema
from semievol_ray.alignment import check_aligned
from semievol_ray.core.deciding import DECISIONS, Coded, Decided, Rows, decide_rows
from semievol_ray.core.selection import Cut
from semievol_ray.runs import Step
from semievol_ray.stages.cluster import map_parts
from semievol_ray.stages.columns import coded, floats, known

Scope = Literal["global", "per_answer", "per_group"]
_READ = ("id", "vote_share", "error", "label", "confidence")


@dataclass(frozen=True)
class Answered:
    """What a selection reads: the rows of a pool and their JUSTIFIED step."""

    pool: Step
    justified: Step


@dataclass(frozen=True)
class Cuts:
    """Where a round cuts: one cut a scope key (the one key "" for a global threshold), and one a full answer's quota.

    `ties_points`: the share kept above theta, in points of 100. `certificate`: what a calibrated rule stands on.
    """

    scope: Scope
    cuts: Mapping[str, Cut]
    quotas: Mapping[str, Cut] = field(default_factory=dict)
    num_answered: int = 0
    ties_points: float = 0.0
    certificate: Mapping[str, Any] = field(default_factory=dict)

    def named(self, key: str) -> str:
        """What a reason calls the cut of this scope key."""
        return {"global": "", "per_answer": f"answer {key}", "per_group": f"group {key}"}[self.scope]


def select(step: Step, answered: Answered, cuts: Cuts, on_part: Callable[[Counter[str]], None]) -> None:
    """Commit SELECTION for every missing part; `on_part` gets the decisions of each."""
    for row in map_parts(_select_part, step.missing_parts(), step=step, answered=answered, cuts=cuts):
        on_part(Counter(dict(zip(row["decisions"], row["counts"], strict=True))))


def decided(answered: Answered, part: str, cuts: Cuts) -> tuple[pa.Table, Decided]:
    """The justified rows of a part, of the columns that selections read, and their decisions, both in order."""
    asked = answered.pool.read_part(part, schema.UNLABELED, ["id"])
    table, keys = keyed(answered, part, cuts.scope, _READ)
    check_aligned(part, (answered.pool, asked), (answered.justified, table))
    rows = Rows(
        ids=table.column("id").to_pylist(),
        confidences=floats(table.column("confidence")),
        known=known(table.column("confidence")),
        shares=floats(table.column("vote_share")).astype(np.float64),
        keys=keys,
        labels=coded(table.column("label")),
        errors=table.column("error").to_pylist(),
        tied=_tied(answered, part, table.column("label")),
    )
    return table, decide_rows(rows, cuts.cuts, cuts.quotas, cuts.named)


def _tied(answered: Answered, part: str, labels: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Which rows have no label though their drafts give answers, and no justification was asked for: a tied vote."""
    tied_R: NDArray[np.bool_] = labels.is_null().to_numpy().astype(bool)
    if tied_R.any():
        given = answered.justified.read_part(part, schema.JUSTIFIED, ["answers", "finish_reason"]).to_pylist()
        for i in np.flatnonzero(tied_R):
            tied_R[i] = given[i]["finish_reason"] is None and any(a is not None for a in given[i]["answers"])
    return tied_R


def keyed(answered: Answered, part: str, scope: Scope, columns: Sequence[str]) -> tuple[pa.Table, Coded]:
    """These columns of a part's justified rows, and the rows' scope keys; what a scope needs is read, no more."""
    needed = list(dict.fromkeys([*columns, "label"])) if scope == "per_answer" else columns
    table = answered.justified.read_part(part, schema.JUSTIFIED, needed)
    match scope:
        case "global":
            return table, Coded(np.zeros(table.num_rows, dtype=np.int64), ("",))
        case "per_answer":
            return table, coded(table.column("label").fill_null(""))
        case "per_group":
            groups = answered.pool.read_part(part, schema.UNLABELED, ["group"]).column("group")
            return table, coded(groups.fill_null(""))


def _select_part(item: dict[str, Any], step: Step, answered: Answered, cuts: Cuts) -> dict[str, Any]:
    part = item["part"]
    table, found = decided(answered, part, cuts)
    names = pa.array([decision.value for decision in DECISIONS])
    columns = {
        **{name: table.column(name) for name in ("id", "label", "confidence")},
        "decision": names.take(pa.array(found.codes)),
        "reason": pa.array(found.reasons, pa.string()),
    }
    step.commit_part(part, pa.table(columns, schema=schema.SELECTION))
    counts = np.bincount(found.codes, minlength=len(DECISIONS)).tolist()
    return {"decisions": names.to_pylist(), "counts": counts}
