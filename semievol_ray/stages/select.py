"""Select: the round's cuts give every row one decision.

Invariant: part i's ids are input part i's ids in order, and a row is accepted exactly when every cut keeps it.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from semievol_ray import schema
from semievol_ray.core.selection import Cut, Decision, decide
from semievol_ray.runs import Step
from semievol_ray.stages.cluster import map_parts

Scope = Literal["global", "per_answer", "per_group"]


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

    def of(self, label: str | None, group: str | None) -> list[tuple[str, Cut]]:
        """The named cuts a row with this label and group has to pass."""
        key = scope_key(self.scope, label, group)
        name = {"global": "", "per_answer": f"answer {key}", "per_group": f"group {key}"}[self.scope]
        found = [(name, self.cuts[key])] if key in self.cuts else []
        quota = self.quotas.get(label) if label is not None else None
        return [*found, (f"quota of {label}", quota)] if quota else found


def select(step: Step, answered: Answered, cuts: Cuts, on_part: Callable[[Counter[str]], None]) -> None:
    """Commit SELECTION for every missing part; `on_part` gets the decisions of each."""
    for row in map_parts(_select_part, step.missing_parts(), step=step, answered=answered, cuts=cuts):
        on_part(Counter(dict(zip(row["decisions"], row["counts"], strict=True))))


def selected_rows(
    pool: Sequence[Mapping[str, Any]], justified: Sequence[Mapping[str, Any]], cuts: Cuts
) -> list[dict[str, Any]]:
    """SELECTION rows of JUSTIFIED rows and the pool rows they answer, in order."""
    assert [row["id"] for row in pool] == [row["id"] for row in justified], "rows are not in the order of their pool"
    return [selected(row, asked["group"], cuts) for asked, row in zip(pool, justified, strict=True)]


def decisions(step: Step) -> Counter[str]:
    """How many rows of a committed selection have each decision."""
    found: Counter[str] = Counter(dict.fromkeys((d.value for d in Decision), 0))
    for part in step.parts:
        found.update(step.read_part(part, schema.SELECTION).column("decision").to_pylist())
    return found


def accepted_labels(step: Step) -> Counter[str]:
    """How many accepted rows of a committed selection have each label."""
    found: Counter[str] = Counter()
    for part in step.parts:
        rows = step.read_part(part, schema.SELECTION).to_pylist()
        found.update(row["label"] for row in rows if row["decision"] == Decision.ACCEPTED.value)
    return found


def scope_key(scope: Scope, label: str | None, group: str | None) -> str:
    return {"global": "", "per_answer": label or "", "per_group": group or ""}[scope]


def _select_part(item: dict[str, Any], step: Step, answered: Answered, cuts: Cuts) -> dict[str, Any]:
    part = item["part"]
    pool = answered.pool.read_part(part, schema.UNLABELED).to_pylist()
    rows = selected_rows(pool, answered.justified.read_part(part, schema.JUSTIFIED).to_pylist(), cuts)
    step.commit_part(part, pa.Table.from_pylist(rows, schema=schema.SELECTION))
    counts = Counter(row["decision"] for row in rows)
    return {"decisions": list(counts), "counts": list(counts.values())}


def selected(row: Mapping[str, Any], group: str | None, cuts: Cuts) -> dict[str, Any]:
    """The SELECTION row of a JUSTIFIED row of this group."""
    key = scope_key(cuts.scope, row["label"], group)
    if row["confidence"] is not None and key not in cuts.cuts:  # a dev row: every answered pool row has a cut
        decision, reason = Decision.UNCERTAIN, f"no answered row of the pool gives {key!r} a tau"
    else:
        named = cuts.of(row["label"], group)
        decision, reason = decide(row["label"], row["confidence"], row["error"], named, row["vote_share"], row["id"])
    return {
        "id": row["id"],
        "label": row["label"],
        "confidence": row["confidence"],
        "decision": decision.value,
        "reason": reason,
    }
