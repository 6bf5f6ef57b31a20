"""Selection alone, at any number of rows: a few written parts of answered rows, linked as often as asked for.

Invariant: every linked part is read, decided, committed and audited like one of its own; only its bytes are shared.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.scale_child import Phase
from benchmarks.scale_data import KINDS, pool_rows
from semievol_ray import schema
from semievol_ray.core.answers import Labels
from semievol_ray.methodconfig import PercentileConfig
from semievol_ray.runs import Run, Step
from semievol_ray.stages.audit import audit_round, totals_of
from semievol_ray.stages.cluster import connected
from semievol_ray.stages.cuts import choose_cuts
from semievol_ray.stages.evaluate import pseudo_label_metrics
from semievol_ray.stages.select import Answered, select
from semievol_ray.tasks import Task

PART_ROWS = 2048
NUM_WRITTEN = 32
TASK = Task("kinds", "Say what kind of thing it is.", Labels(KINDS), max_tokens=16)


def work(settings: dict[str, Any], phase: Phase) -> None:
    """settings: folder, rows, rule (of method.select). Phases: start, cuts, select, commit, audit."""
    folder, num_parts = settings["folder"], -(-settings["rows"] // PART_ROWS)
    parts = tuple(f"part-{i:05d}" for i in range(num_parts))
    rule = PercentileConfig.model_validate(settings["rule"])
    with Run.open(f"{folder}/run-{num_parts}", {}) as run:
        pool, justified, gold = (
            run.step(name, settings={}, inputs={}, parts=parts) for name in ("pool", "justify", "gold")
        )
        _write(pool, justified, gold)
        with phase("start"):
            connection = connected(None, f"{folder}/ray.log")
            connection.__enter__()
        answered = Answered(pool, justified)
        with phase("cuts"):
            cuts = choose_cuts(answered, rule, label_counts=dict.fromkeys(KINDS, 50))
        step = run.step(settings["name"], settings=settings, inputs={}, parts=parts)
        with phase("select"):
            select(step, answered, cuts, lambda _: None)
        with phase("audit") as said:
            totals = totals_of(justified, step, gold, TASK)
            metrics = pseudo_label_metrics(totals.decided)
            audit = audit_round(justified, totals, Step(folder, "", ()), None, TASK)
            said.update(coverage=metrics["coverage"], rows=totals.num_rows, parts=num_parts)
        with phase("commit"):
            run.commit(step, {**metrics, "audit": audit})
        connection.__exit__(None, None, None)


def _write(pool: Step, justified: Step, gold: Step) -> None:
    """Parts of the three steps, the first ones written and the others links to them."""
    for i, part in enumerate(pool.parts[:NUM_WRITTEN]):
        for step, table in zip((pool, justified, gold), _tables(i), strict=True):
            step.commit_part(part, table)
    for step in (pool, justified, gold):
        for i, part in enumerate(step.parts[NUM_WRITTEN:]):
            if not Path(step.part_path(part)).exists():
                os.link(step.part_path(step.parts[i % NUM_WRITTEN]), step.part_path(part))


def _tables(number: int) -> tuple[pa.Table, pa.Table, pa.Table]:
    """UNLABELED, JUSTIFIED and GOLD of one part: four drafts a row, one row in fifty unreadable, half of H near 0."""
    rng, questions = np.random.default_rng(number), list(pool_rows(PART_ROWS, f"stem {number}"))
    ids = [hashlib.sha256(question.encode()).hexdigest() for question, _ in questions]
    golds = [answer for _, answer in questions]
    right_RC, others_RC = rng.random((PART_ROWS, 4)) < 0.6, rng.choice(KINDS, (PART_ROWS, 4))
    drafts = np.where(right_RC, np.array(golds)[:, None], others_RC).tolist()
    labels = [None if i % 50 == 0 else row[0] for i, row in enumerate(drafts)]
    drawn = np.where(rng.random(PART_ROWS) < 0.5, rng.exponential(1e-4, PART_ROWS), rng.exponential(0.5, PART_ROWS))
    none = np.array([label is None for label in labels])
    confidences = pa.array(np.round(drawn, 4).astype(np.float32), pa.float32(), mask=none)
    nothing = [None] * PART_ROWS
    answered = {
        "id": ids, "answers": drafts, "vote": labels,
        "vote_share": pa.array(rng.integers(1, 5, PART_ROWS) / 4, pa.float32()),
        "vote_entropy": pa.array(rng.random(PART_ROWS), pa.float32()),
        "text": [f"Answer: {label}" for label in labels], "answer": labels, "finish_reason": ["stop"] * PART_ROWS,
        "num_prompt_tokens": [100] * PART_ROWS, "num_tokens": [10] * PART_ROWS, "mean_nll": confidences,
        "answer_nll": confidences, "error": nothing, "label": labels,
        "label_source": ["justification"] * PART_ROWS, "confidence": confidences,
    }  # fmt: skip
    asked = {"id": ids, "question": [q for q, _ in questions], "options": nothing, "group": [a[0] for a in golds]}
    return (
        pa.table({**asked, "num_copies": [1] * PART_ROWS}, schema=schema.UNLABELED),
        pa.table(answered, schema=schema.JUSTIFIED),
        pa.table({"id": ids, "answer": golds}, schema=schema.GOLD),
    )
