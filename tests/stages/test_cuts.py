"""Where a round cuts: tau over the rows of all parts, by scope, with ties, ceilings, quotas and calibrated rules."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from semievol_ray import schema
from semievol_ray.core.deciding import DECISIONS
from semievol_ray.core.selection import Cut
from semievol_ray.errors import NothingAcceptedError
from semievol_ray.methodconfig import FdrConfig, PercentileConfig, PrecisionBoundConfig
from semievol_ray.runs import Step
from semievol_ray.stages.cuts import Judged, choose_cuts
from semievol_ray.stages.select import Answered, Cuts, decided

Row = dict[str, Any]
Answering = Callable[..., Answered]
pytestmark = pytest.mark.usefixtures("mapped_here")


@pytest.fixture
def answering(step_of: Callable[..., Step]) -> Answering:
    """answering(rows) -> their pool and JUSTIFIED step, in two parts, with ids r00, r01, ..."""

    def make(rows: list[Row], name: str = "pool") -> Answered:
        full = [
            {"id": f"r{i:02d}", "answers": [], "label": "plant", "vote_share": 0.5, **r} for i, r in enumerate(rows)
        ]
        asked = [{"id": row["id"], "question": "q", "group": row.pop("group", None)} for row in full]
        half = len(rows) // 2
        return Answered(
            step_of(f"{name}/rows", schema.UNLABELED, asked[:half], asked[half:]),
            step_of(f"{name}/justify", schema.JUSTIFIED, full[:half], full[half:]),
        )

    return make


def _sure(*confidences: float | None, **same: Any) -> list[Row]:
    return [{"confidence": c, **same} for c in confidences]


def _accepted(answered: Answered, cuts: Cuts) -> list[int]:
    """Positions of the accepted rows."""
    found = [decided(answered, part, cuts) for part in answered.pool.parts]
    rows = [(i, code) for table, of in found for i, code in zip(table.column("id").to_pylist(), of.codes, strict=True)]
    return [int(row_id[1:]) for row_id, code in rows if DECISIONS[code] == "accepted"]


def test_tau_is_over_the_rows_of_all_parts_that_have_a_confidence(answering: Answering) -> None:
    rows = [*_sure(0.5, 0.1, 0.4), {"label": None}, *_sure(0.2)]
    chosen = choose_cuts(answering(rows), PercentileConfig(theta=0.5))
    assert (chosen.cuts[""].tau, chosen.num_answered, chosen.ties_points) == (pytest.approx(0.2), 4, 0)


def test_ties_at_tau_are_reported_in_points(answering: Answering) -> None:
    chosen = choose_cuts(answering(_sure(0, 0, 0, 0, 1)), PercentileConfig(theta=0.2))
    assert (chosen.cuts[""].tau, chosen.ties_points) == (0, pytest.approx(60))


def test_ties_are_broken_by_vote_share_then_id_where_asked(answering: Answering) -> None:
    shares = (0.25, 1.0, 0.5, 0.5, 1.0, 0.5)
    answered = answering([{"confidence": 0.0, "vote_share": share} for share in shares] + _sure(1.0, 1.0))
    chosen = choose_cuts(answered, PercentileConfig(theta=0.5, ties="exact"))
    assert _accepted(answered, chosen) == [1, 2, 3, 4]
    assert chosen.ties_points == 0


def test_round_without_any_confidence_is_refused(answering: Answering) -> None:
    answered = answering([{"label": None}, {"label": None, "error": "too long"}])
    with pytest.raises(NothingAcceptedError, match="no row has a confidence"):
        choose_cuts(answered, PercentileConfig())


def test_each_answer_and_each_group_can_have_a_tau_of_its_own(answering: Answering) -> None:
    rows = [
        {"confidence": i / 8, "label": "food" if i < 4 else "plant", "group": "art" if i % 2 else "law"}
        for i in range(8)
    ]
    answered = answering([*rows, {"label": None, "group": "none"}])
    by_answer = choose_cuts(answered, PercentileConfig(theta=0.5, scope="per_answer"))
    by_group = choose_cuts(answered, PercentileConfig(theta=0.25, scope="per_group"))
    assert {key: cut.tau for key, cut in by_answer.cuts.items()} == {"food": 1 / 8, "plant": 5 / 8}
    assert _accepted(answered, by_answer) == [0, 1, 4, 5]
    assert {key: cut.tau for key, cut in by_group.cuts.items()} == {"art": 1 / 8, "law": 0.0}


def test_ties_of_each_answer_are_broken_apart(answering: Answering) -> None:
    rows = [{"confidence": 0.5, "label": "food" if i % 2 else "plant"} for i in range(8)]
    answered = answering(rows)
    assert _accepted(answered, choose_cuts(answered, PercentileConfig(scope="per_answer", ties="exact"))) == [
        0,
        1,
        2,
        3,
    ]


def test_ceiling_holds_tau_down_and_never_raises_it(answering: Answering) -> None:
    answered = answering(_sure(0.125, 0.25, 0.375, 0.5))
    for most, tau in ((0.125, 0.125), (0.75, 0.25)):
        chosen = choose_cuts(answered, PercentileConfig(theta=0.5), ceiling=Cuts("global", {"": Cut(most)}))
        assert chosen.cuts[""].tau == tau


def test_ceiling_is_a_number_and_not_where_round_one_broke_its_ties(answering: Answering) -> None:
    answered = answering(_sure(0.25, 0.25, 0.25, 0.5))
    ceiling = Cuts("global", {"": Cut(0.25, 0.75, "a")})  # a share and an id that no row of this round reaches
    assert _accepted(answered, choose_cuts(answered, PercentileConfig(theta=1), ceiling=ceiling)) == [0, 1, 2]


def test_quota_holds_an_answer_to_its_share_of_the_labels(answering: Answering) -> None:
    rows = [*_sure(*[i / 16 for i in range(12)], label="food"), *_sure(0.0, 0.25, label="plant"), *_sure(*[9.0] * 14)]
    answered = answering(rows)
    chosen = choose_cuts(answered, PercentileConfig(theta=0.5, quota=1), label_counts={"food": 10, "plant": 10})
    assert chosen.quotas["food"].tau == 6 / 16  # ceil(14 (10 + 1) / (20 + 2)) = 7 of the 14 kept
    assert _accepted(answered, chosen) == [0, 1, 2, 3, 4, 5, 6, 12, 13]


def _dev(wrong: int, right: int, *, apart: bool = True) -> Judged:
    """A slice whose right rows have H from 0 up, and whose wrong ones are above them, or among them."""
    confidences = [*np.linspace(0.0, 0.5, right), *np.linspace(0.51 if apart else 0.0, 1.0, wrong)]
    correct = [True] * right + [False] * wrong
    return Judged(np.asarray(confidences, dtype=np.float32), np.asarray(correct), right + wrong)


def test_precision_bound_keeps_what_the_dev_slice_certifies(answering: Answering) -> None:
    answered, rule = answering(_sure(*[i / 100 for i in range(100)])), PrecisionBoundConfig(rule="precision_bound")
    chosen = choose_cuts(answered, rule, judged=_dev(wrong=100, right=100))
    assert 0.4 < chosen.cuts[""].tau < 0.6
    assert chosen.certificate["lower_bound"] >= 0.9
    assert chosen.certificate["num_dev_accepted"] >= chosen.certificate["num_dev_right"] > 60
    assert chosen.certificate["num_dev"] == 200


def test_precision_bound_that_certifies_nothing_says_so(answering: Answering) -> None:
    answered, rule = answering(_sure(*[i / 100 for i in range(100)])), PrecisionBoundConfig(rule="precision_bound")
    with pytest.raises(NothingAcceptedError, match=r"precision 0\.9 at 95% .* 120 answered rows.*data\.dev"):
        choose_cuts(answered, rule, judged=_dev(wrong=60, right=60, apart=False))


def test_fdr_keeps_rows_surer_than_the_wrong_ones_of_the_dev_slice(answering: Answering) -> None:
    answered, rule = answering(_sure(*[i / 100 for i in range(100)])), FdrConfig(rule="fdr", target_error=0.1)
    chosen = choose_cuts(answered, rule, judged=_dev(wrong=100, right=100))
    assert 0.4 < chosen.cuts[""].tau < 0.7
    assert chosen.certificate["num_dev_wrong"] == 100
    assert "right and wrong alike" in chosen.certificate["assumption"]


def test_fdr_that_keeps_nothing_says_so(answering: Answering) -> None:
    answered, rule = answering(_sure(*[i / 100 for i in range(100)])), FdrConfig(rule="fdr", target_error=0.05)
    with pytest.raises(NothingAcceptedError, match=r"below 0\.05 given the 60 wrong of 120 .*target_error"):
        choose_cuts(answered, rule, judged=_dev(wrong=60, right=60, apart=False))
