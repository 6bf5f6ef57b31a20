"""Audit: what a round's confidence is worth, where gold answers are known, as plain JSON values for the report.

Invariant: no row reaches the driver, only counts and one float32 for each confidence; what comes out is bounded in
size. Gold answers are joined after everything was answered.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from semievol_ray import schema
from semievol_ray.core import audit
from semievol_ray.core.audit import Counts, Floats, Judged
from semievol_ray.core.selection import Decision
from semievol_ray.runs import Step
from semievol_ray.stages.cluster import map_parts
from semievol_ray.stages.judgement import APART, audit_part
from semievol_ray.tasks import Task

MOST_CONFUSED = 20


@dataclass
class Totals:
    """Sums over the parts of one split; H apart for rows that are right, wrong and without a known answer.

    `decided`: decision -> its rows, those of them with gold and label, and those of these that are right. The counts of
    labels are of tasks with a closed set of answers.
    """

    num_rows: int = 0
    right: list[Floats] = field(default_factory=list)
    wrong: list[Floats] = field(default_factory=list)
    unknown: list[Floats] = field(default_factory=list)
    accepted_bins: Counts = field(default_factory=lambda: np.zeros(audit.NUM_BINS, dtype=np.int64))
    decided: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    answers: list[dict[str, int]] = field(default_factory=list)
    agreement: list[list[int]] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    gold: Counter[str] = field(default_factory=Counter)
    confusion: Counter[str] = field(default_factory=Counter)

    def confidences(self) -> Floats:
        """H of every row that has one; float32, in no order."""
        return _joined([*self.right, *self.wrong, *self.unknown])

    def judged(self) -> Judged | None:
        """The rows whose answer is known to be right or wrong; None when there is none."""
        found = Judged(_joined(self.right), _joined(self.wrong))
        return found if found.num_rows else None


def totals_of(
    justified: Step, selection: Step, gold: Step | None, task: Task, embedder_path: str | None = None
) -> Totals:
    """The sums over a pool or a dev fold, by one pass over its parts.

    `embedder_path` is set where answers agree by their embeddings.
    """
    totals = Totals()
    judged = (gold, schema.GOLD) if gold else None
    for part in map_parts(
        audit_part,
        justified.parts,
        justified=justified,
        selection=selection,
        gold=judged,
        task=task,
        embedder_path=embedder_path,
    ):
        for name in APART:
            getattr(totals, name).append(np.frombuffer(part[name], dtype=np.float32))
        _add(totals, json.loads(part["counts"]))
    return totals


def audit_round(justified: Step, pool: Totals, labeled: Step, fold: Totals | None, task: Task) -> dict[str, Any]:
    """The audit of a round: values that JSON holds, a few hundred numbers whatever the number of rows.

    `gold` of the result judges the pool by its own gold answers and `dev` judges the dev fold; either is None without.
    """
    known, held_out = pool.judged(), fold.judged() if fold else None
    confidences_R = pool.confidences()
    return {
        "num_rows": pool.num_rows,
        "num_confident": int(confidences_R.size),
        "histogram": {
            "edges": [float(f"{edge:.6g}") for edge in audit.EDGES],
            "rows": audit.bin_counts(confidences_R).tolist(),
            "accepted": pool.accepted_bins.tolist(),
        },
        "gold": _worth(pool, known),
        "dev": _worth(fold, held_out) if fold else None,
        "what_if": [asdict(row) for row in audit.what_if(confidences_R, known, held_out)],
        "collaborators": _collaborators(justified, pool),
        "labels": _labels(labeled, pool) if task.is_closed else None,
        "confusion": _confusion(pool.confusion),
    }


def _worth(totals: Totals, judged: Judged | None) -> dict[str, Any] | None:
    """Precision of all judged rows and of the accepted ones, by bin and as a curve; None when nothing is judged."""
    if judged is None:
        return None
    curve = audit.reliability_curve(judged)
    _, num_judged, num_right = totals.decided.get(Decision.ACCEPTED.value, (0, 0, 0))
    kept = audit.precision(num_right, num_judged)
    every = audit.precision(int(judged.right.size), judged.num_rows)
    return {
        "num_rows": judged.num_rows,
        "precision": asdict(every) if every else None,
        "num_accepted": num_judged,
        "precision_accepted": asdict(kept) if kept else None,
        "calibration_error": audit.calibration_error(curve),
        "bins": [asdict(row) for row in audit.bin_table(judged)],
        "curve": [asdict(row) for row in curve],
    }


def _collaborators(justified: Step, totals: Totals) -> dict[str, Any]:
    """Names, agreement counts (diagonal: readable rows), and of each collaborator how many judged answers are right."""
    inputs = justified.record()["inputs"]
    names = [name.removeprefix("drafts/") for name in inputs if name.startswith("drafts/")]
    if len(names) != len(totals.agreement):
        names = [f"collaborator {i + 1}" for i in range(len(totals.agreement))]
    return {"names": names, "num_rows": totals.num_rows, "agreement": totals.agreement, "answers": totals.answers}


def _labels(labeled: Step, totals: Totals) -> list[dict[str, Any]]:
    counted: Counter[str] = Counter()
    for part in labeled.parts:
        counted.update(labeled.read_part(part, schema.LABELED, ["answer"]).column("answer").to_pylist())
    rows = audit.label_balance(counted, totals.answered, totals.accepted, totals.gold)
    return [asdict(row) for row in rows]


def _confusion(pairs: Counter[str]) -> dict[str, Any] | None:
    """Counts of [gold answer][pseudo-label] over the judged rows; None without any, or with too many answers."""
    counts = {tuple(json.loads(pair)): num for pair, num in pairs.items()}
    labels = sorted({label for pair in counts for label in pair})
    if not labels or len(labels) > MOST_CONFUSED:
        return None
    return {"labels": labels, "counts": [[counts.get((g, a), 0) for a in labels] for g in labels]}


def _add(totals: Totals, counts: Mapping[str, Any]) -> None:
    totals.num_rows += counts["num_rows"]
    totals.accepted_bins += np.array(counts["accepted_bins"], dtype=np.int64)
    for decision, (rows, judged, right) in counts["decided"].items():
        before = totals.decided.get(decision, (0, 0, 0))
        totals.decided[decision] = (before[0] + rows, before[1] + judged, before[2] + right)
    if counts["agreement"]:  # a part may hold no answered row
        agreed = totals.agreement or np.zeros_like(counts["agreement"])
        totals.agreement = np.add(agreed, counts["agreement"]).tolist()
        known = totals.answers or [dict.fromkeys(one, 0) for one in counts["answers"]]
        totals.answers = [{key: a[key] + b[key] for key in a} for a, b in zip(known, counts["answers"], strict=True)]
    for name in ("answered", "accepted", "gold", "confusion"):
        getattr(totals, name).update(counts.get(name, {}))


def _joined(parts: Sequence[Floats]) -> Floats:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
