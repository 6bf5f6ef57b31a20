"""A round's selection as committed steps: which rows decide, what guards a round, and what is refused beforehand."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semievol_ray import schema
from semievol_ray.config import GuardConfig
from semievol_ray.errors import ConfigError, DriftError, NothingAcceptedError
from semievol_ray.runs import Run, Step
from semievol_ray.stages.context import Context
from semievol_ray.stages.cuts import Judged, choose_cuts
from semievol_ray.stages.ingest import Data, Fold
from semievol_ray.stages.select import Answered
from semievol_ray.stages.selecting import check_feasible, cuts_of, guard, select_round

Row = dict[str, Any]
StepOf = Callable[..., Step]
ContextOf = Callable[..., Context]
CERTIFIED = {"rule": "precision_bound", "target_precision": 0.8, "level": 0.9}
pytestmark = pytest.mark.usefixtures("mapped_here")


@dataclass(frozen=True)
class Round:
    """What select_round is given: a run's data, and what M_warm said of the pool and of the dev fold."""

    data: Data
    pool: Answered
    dev: Answered


Rounds = Callable[..., Round]


@pytest.fixture
def round_of(step_of: StepOf) -> Rounds:
    """round_of(name, dev) -> 40 pool rows, every fourth a plant, and dev rows of (H, right), that say food."""

    def make(name: str, dev: list[tuple[float, bool]]) -> Round:
        pool = [{"label": "food" if i % 4 else "plant", "confidence": (i % 20) / 20} for i in range(40)]
        labels = [{"id": f"l{i}", "question": "q", "answer": answer} for i, answer in enumerate(["food", "plant"] * 5)]
        answered = _answered(f"{name}/unlabeled", pool, "p")
        held_out = _answered(f"{name}/dev", [{"label": "food", "confidence": h} for h, _ in dev], "d")
        gold = [{"id": f"p{i:02d}", "answer": row["label"]} for i, row in enumerate(pool)]
        dev_gold = [{"id": f"d{i:02d}", "answer": "food" if right else "plant"} for i, (_, right) in enumerate(dev)]
        data = Data(
            step_of(f"{name}/labeled", schema.LABELED, labels),
            Fold(answered.pool, step_of(f"{name}/gold", schema.GOLD, gold)),
            None,
            Fold(held_out.pool, step_of(f"{name}/dev_gold", schema.GOLD, dev_gold)),
            None,
        )
        return Round(data, answered, held_out)

    def _answered(name: str, rows: list[Row], stem: str) -> Answered:
        full = [{"id": f"{stem}{i:02d}", "answers": [], "vote_share": i / 64, **row} for i, row in enumerate(rows)]
        asked = [{"id": row["id"], "question": "q", "num_copies": 1} for row in full]
        return Answered(step_of(name, schema.UNLABELED, asked), step_of(f"{name}-justify", schema.JUSTIFIED, full))

    return make


def _dev(wrong_slice: int | None = None) -> list[tuple[float, bool]]:
    """60 rows dealt in turn to slices 1 and 2, right where H is below 0.8; all of `wrong_slice` are wrong."""
    pairs = [((i // 2) / 30, i // 2 < 24) for i in range(60)]
    return [(h, right and i % 2 + 1 != wrong_slice) for i, (h, right) in enumerate(pairs)]


def _context(context_of: ContextOf, select: Row, num_dev: int = 60, **changes: Any) -> Context:
    data = {"labeled": "l.csv", "unlabeled": "u.csv", "dev": num_dev}
    return context_of(data=data, method={"rounds": 2, "select": select}, **changes)


@pytest.mark.parametrize(("num_dev", "is_refused"), [(117, True), (118, False)])
def test_dev_fold_too_small_to_certify_is_refused_with_what_it_could(
    num_dev: int, is_refused: bool, context_of: ContextOf, step_of: StepOf, labeled: Step, pool: Step
) -> None:
    rows = step_of("data/dev", schema.UNLABELED, [{"id": f"d{i}"} for i in range(num_dev)])
    context = _context(context_of, {**CERTIFIED, "target_precision": 0.95, "level": 0.95}, num_dev)
    told = []
    try:
        check_feasible(context, Data(labeled, Fold(pool, pool), None, Fold(rows, rows), None))
    except ConfigError as error:
        told.append(str(error))
    assert bool(told) == is_refused
    for words in ("58 rows a round", "at most 0.950", "takes at least 59", "fewer rounds") if is_refused else ():
        assert words in told[0]


@pytest.mark.parametrize(("num_dev", "is_refused"), [(37, True), (38, False)])
def test_dev_fold_too_small_for_its_target_error_is_refused_with_the_smallest(
    num_dev: int, is_refused: bool, context_of: ContextOf, step_of: StepOf, labeled: Step, pool: Step
) -> None:
    rows = step_of("data/dev", schema.UNLABELED, [{"id": f"d{i}"} for i in range(num_dev)])
    context = _context(context_of, {"rule": "fdr", "target_error": 0.05}, num_dev)
    told = []
    try:
        check_feasible(context, Data(labeled, Fold(pool, pool), None, Fold(rows, rows), None))
    except ConfigError as error:
        told.append(str(error))
    assert bool(told) == is_refused
    for words in ("18 rows a round", "at 0.053 at best", "takes at least 19", "fewer rounds") if is_refused else ():
        assert words in told[0]


def test_dev_slice_of_the_round_alone_sets_its_threshold(
    context_of: ContextOf, round_of: Rounds, tmp_path: Path
) -> None:
    found = []
    for name, dev in (("right", _dev()), ("wrong", _dev(wrong_slice=2))):
        made = round_of(name, dev)
        with Run.open(str(tmp_path / name), {}) as held:
            context = _context(context_of, CERTIFIED, held=held)
            found.append(cuts_of(select_round(context, 1, made.data, made.pool, made.dev, None).pool))
    assert found[0] == found[1]
    assert found[0].certificate["num_dev"] == 30


def test_round_whose_own_dev_slice_certifies_nothing_stops(context_of: ContextOf, round_of: Rounds) -> None:
    made = round_of("a", _dev(wrong_slice=1))
    with pytest.raises(NothingAcceptedError, match="30 answered rows of the round's dev slice"):
        select_round(_context(context_of, CERTIFIED), 1, made.data, made.pool, made.dev, None)


@pytest.mark.parametrize("lower", [{**CERTIFIED, "target_precision": 0.5}, {"theta": 0.5}], ids=["target", "rule"])
def test_round_that_certified_nothing_goes_on_with_the_rule_that_its_message_advises(
    lower: Row, context_of: ContextOf, round_of: Rounds
) -> None:
    made = round_of("a", _dev())
    with pytest.raises(NothingAcceptedError, match=r"Lower method\.select\.target_precision"):
        select_round(_context(context_of, {**CERTIFIED, "level": 0.999}), 1, made.data, made.pool, made.dev, None)
    found = select_round(_context(context_of, lower), 1, made.data, made.pool, made.dev, None)
    assert _metrics(found.pool)["num_accepted"] > 0
    assert found.dev is not None
    assert found.pool.record()["settings"] == found.dev.record()["settings"]


def test_selection_with_a_part_is_not_begun_anew_by_another_rule(context_of: ContextOf, round_of: Rounds) -> None:
    made = round_of("a", _dev())
    found = select_round(_context(context_of, CERTIFIED), 1, made.data, made.pool, made.dev, None)
    record = {key: value for key, value in found.pool.record().items() if key != "committed"}
    Path(found.pool.path, "step.json").write_text(json.dumps(record))  # as a kill before the commit leaves it
    with pytest.raises(DriftError, match=r"target_precision: 0\.8 in the run directory, 0\.7 now"):
        select_round(
            _context(context_of, {**CERTIFIED, "target_precision": 0.7}), 1, made.data, made.pool, made.dev, None
        )


def test_percentile_threshold_takes_no_part_of_dev_which_is_judged_by_it(
    context_of: ContextOf, round_of: Rounds
) -> None:
    made = round_of("a", _dev())
    found = select_round(_context(context_of, {"theta": 0.25}), 1, made.data, made.pool, made.dev, None)
    assert found.dev is not None
    assert "dev" not in found.pool.record()["inputs"]
    accepted = [h for h, _ in _dev()[::2] if h <= 0.2]  # those of slice 1, which are dealt in turn
    assert {key: _metrics(found.pool)[key] for key in ("dev_rows", "dev_accepted", "dev_right")} == {
        "dev_rows": 30, "dev_accepted": len(accepted), "dev_right": len(accepted),
    }  # fmt: skip


@pytest.mark.parametrize(
    "select", [{"scope": "per_answer", "ties": "exact", "quota": 1.0}, CERTIFIED], ids=["percentile", "certified"]
)
def test_cuts_read_back_from_a_committed_selection_are_those_it_was_made_with(
    select: Row, context_of: ContextOf, round_of: Rounds
) -> None:
    made = round_of("a", _dev())
    context = _context(context_of, select)
    found = cuts_of(select_round(context, 1, made.data, made.pool, made.dev, None).pool)
    confidences, right = zip(*_dev()[::2], strict=True)
    judged = Judged(np.asarray(confidences, dtype=np.float32), np.asarray(right), 30)
    assert found == choose_cuts(
        made.pool, context.config.method.select, judged=judged, label_counts={"food": 5, "plant": 5}
    )


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"min_accepted": 12}, "accepted rows: 11, and guard.min_accepted is 12"),
        ({"min_answers": 3}, "2 different answers and guard.min_answers is 3"),
        ({"min_precision": 0.8}, "7 of 9 accepted dev rows are right and guard.min_precision is 0.8"),
    ],
)
def test_guard_stops_a_round_for_each_of_its_reasons(config: Row, told: str, run: Run, begun: StepOf) -> None:
    step = begun("select", [])
    run.commit(step, {"num_accepted": 11, "num_accepted_answers": 2, "dev_accepted": 9, "dev_right": 7})
    with pytest.raises(NothingAcceptedError, match=told):
        guard(GuardConfig.model_validate(config), 3, step)


def test_guard_counts_no_answers_of_an_open_set(run: Run, begun: StepOf) -> None:
    step = begun("select", [])
    run.commit(step, {"num_accepted": 11, "num_accepted_answers": None})
    guard(GuardConfig(), 1, step)
    with pytest.raises(NothingAcceptedError):
        guard(GuardConfig(min_accepted=12), 1, step)


def test_looser_guard_goes_on_from_the_selection_that_was_stopped(context_of: ContextOf, round_of: Rounds) -> None:
    made = round_of("a", _dev())
    strict, loose = (_context(context_of, {"theta": 0.5}, guard={"min_accepted": least}) for least in (21, 20))
    with pytest.raises(NothingAcceptedError, match=r"accepted rows: 20, and guard\.min_accepted is 21"):
        select_round(strict, 1, made.data, made.pool, made.dev, None)
    files = [path for path in Path(strict.run.root, "rounds").rglob("*.*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    select_round(loose, 1, made.data, made.pool, made.dev, None)
    assert {path: path.stat().st_mtime_ns for path in files} == before != {}


def test_ceiling_is_round_ones_tau_for_later_rounds(context_of: ContextOf, round_of: Rounds) -> None:
    made = round_of("a", _dev())
    data = {"labeled": "l.csv", "unlabeled": "u.csv"}
    rounds = {"num": 2, "threshold": "ceiling"}
    strict, loose = (
        context_of(data=data, method={"rounds": rounds, "select": {"theta": theta}}) for theta in (0.25, 0.75)
    )
    first = select_round(strict, 1, made.data, made.pool, None, None)
    second = select_round(loose, 2, made.data, made.pool, None, first.pool)
    assert _metrics(second.pool)["tau"] == _metrics(first.pool)["tau"] == pytest.approx(0.2)


def _metrics(step: Step) -> Row:
    committed = step.committed()
    assert committed is not None
    return dict(committed["metrics"])
