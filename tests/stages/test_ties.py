"""Ties broken over the parts of a round are those broken with every tied row at hand."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from semievol_ray import schema
from semievol_ray.core.selection import exact_cut, percentile_cuts, tied_room
from semievol_ray.runs import Step
from semievol_ray.stages.select import Answered
from semievol_ray.stages.ties import break_ties

pytestmark = pytest.mark.usefixtures("mapped_here")
THETA = 0.4


def _rows(rng: random.Random, num: int) -> list[dict[str, Any]]:
    """Rows of few confidences and shares, whose ids share beginnings longer than what the driver is told of them."""
    ids = [f"{rng.choice(['a', 'same-beginning-', 'é'])}{i:03d}" for i in range(num)]
    rng.shuffle(ids)
    labels = ["plant", "food"]
    return [
        {
            "id": row_id,
            "answers": [],
            "label": rng.choice(labels),
            "confidence": rng.choice([0.0, 0.25, None]),
            "vote_share": rng.choice([0.25, 0.5]),
        }
        for row_id in ids
    ]


@pytest.mark.parametrize("seed", range(8))
def test_ties_of_all_parts_are_broken_as_with_every_tied_row_at_hand(step_of: Callable[..., Step], seed: int) -> None:
    rows = _rows(random.Random(seed), 40)
    pool = [{"id": row["id"], "question": "q"} for row in rows]
    answered = Answered(
        step_of("pool", schema.UNLABELED, pool[:25], pool[25:]),
        step_of("justify", schema.JUSTIFIED, rows[:25], rows[25:]),
    )
    values = {
        label: np.array(
            [r["confidence"] for r in rows if r["label"] == label and r["confidence"] is not None], np.float32
        )
        for label in ("plant", "food")
    }
    cuts = percentile_cuts(values, THETA)
    tied = {
        label: [(r["vote_share"], r["id"]) for r in rows if r["label"] == label and r["confidence"] == cut.tau]
        for label, cut in cuts.items()
    }
    rooms = {label: tied_room(of, THETA) for label, of in values.items()}
    expected = {label: exact_cut(values[label], THETA, tied[label]) for label in cuts}
    assert break_ties(answered, "per_answer", cuts, rooms) == expected
