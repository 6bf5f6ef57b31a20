"""The audit's figures, against the same figures counted row by row."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol_ray.core import audit
from semievol_ray.core.audit import EDGES, NUM_BINS, Judged
from semievol_ray.core.deciding import Coded
from semievol_ray.core.selection import threshold

CONFIDENCE = st.one_of(st.sampled_from([0.0, 2.0**-23, 0.25, 0.5]), st.floats(0, 20, width=32))
JUDGED = st.lists(st.tuples(CONFIDENCE, st.booleans()), min_size=1, max_size=80)
ANSWERS = st.lists(st.tuples(*[st.sampled_from(["a", "A", "b", None])] * 3), max_size=20)


def floats(values: list[float]) -> audit.Floats:
    return np.array(values, dtype=np.float32)


def judged(rows: list[tuple[float, bool]]) -> Judged:
    return Judged(floats([h for h, right in rows if right]), floats([h for h, right in rows if not right]))


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_precision_interval_ends_where_the_score_test_of_its_share_turns(counts: tuple[int, int]) -> None:
    right, rows = counts
    found = audit.precision(right, rows)
    assert found is not None
    assert found.value == right / rows
    assert 0 <= found.low <= found.value <= found.high <= 1
    for end in {found.low, found.high} - {0.0, 1.0}:
        z = (found.value - end) / math.sqrt(end * (1 - end) / rows)
        assert abs(z) == pytest.approx(1.95996, abs=1e-3)


def test_precision_without_rows_is_unknown() -> None:
    assert audit.precision(0, 0) is None


@given(st.lists(CONFIDENCE, max_size=80))
def test_bins_count_every_confidence_once_in_the_bin_whose_ends_hold_it(values: list[float]) -> None:
    ends = [-math.inf, *EDGES.tolist(), math.inf]
    expected = [sum(low <= value < high for value in values) for low, high in pairwise(ends)]
    assert audit.bin_counts(floats(values)).tolist() == expected
    assert len(expected) == NUM_BINS


def test_bins_tell_apart_what_saturates_near_zero() -> None:
    counts = audit.bin_counts(floats([0.0, 2e-6, 5e-5, 1e-3, 0.02, 0.5]))
    assert counts.max() == 1


@given(JUDGED)
def test_bin_table_runs_up_to_everything_that_was_judged(rows: list[tuple[float, bool]]) -> None:
    table = audit.bin_table(judged(rows))
    assert [b.low for b in table] == sorted(b.low for b in table)
    for b in table:
        inside = [right for h, right in rows if b.low <= h and (b.high is None or h < b.high)]
        below = [right for h, right in rows if b.high is None or h < b.high]
        assert (b.rows, b.right) == (len(inside), sum(inside))
        assert b.coverage == pytest.approx(len(below) / len(rows))
        assert b.precision_so_far == pytest.approx(sum(below) / len(below))
    assert (sum(b.rows for b in table), table[-1].coverage) == (len(rows), 1)


@given(JUDGED, st.integers(1, 12))
def test_curve_bins_split_the_rows_by_rank_and_never_split_a_tie(rows: list[tuple[float, bool]], num: int) -> None:
    curve = audit.reliability_curve(judged(rows), num)
    assert 1 <= len(curve) <= num
    assert all(a.high < b.low for a, b in pairwise(curve))
    for b in curve:
        inside = [(h, right) for h, right in rows if b.low <= h <= b.high]
        assert (b.rows, b.right) == (len(inside), sum(right for _, right in inside))
        assert b.probability == pytest.approx(np.mean([math.exp(-h) for h, _ in inside]), rel=1e-5)
    assert sum(b.rows for b in curve) == len(rows)


def test_curve_of_different_confidences_has_bins_of_one_size() -> None:
    rows = [(i / 100, i % 3 > 0) for i in range(100)]
    assert {b.rows for b in audit.reliability_curve(judged(rows), 10)} == {10}


def test_calibration_error_of_a_model_that_is_as_often_right_as_it_says_is_zero() -> None:
    half = -math.log(0.5)
    rows = [(0.0, True)] * 10 + [(half, True)] * 5 + [(half, False)] * 5
    assert audit.calibration_error(audit.reliability_curve(judged(rows))) == pytest.approx(0, abs=1e-6)


def test_calibration_error_weighs_each_bins_gap_by_its_rows() -> None:
    rows = [(0.0, False)] * 1 + [(-math.log(0.5), True)] * 3
    assert audit.calibration_error(audit.reliability_curve(judged(rows))) == pytest.approx((1 * 1 + 3 * 0.5) / 4)


def test_nothing_judged_has_no_curve_and_no_calibration_error() -> None:
    assert audit.reliability_curve(judged([])) == []
    assert audit.calibration_error([]) is None


@given(JUDGED, st.lists(CONFIDENCE, max_size=20), JUDGED)
def test_what_if_keeps_what_selection_would_keep_at_each_theta(
    gold: list[tuple[float, bool]], unknown: list[float], dev: list[tuple[float, bool]]
) -> None:
    values = floats([h for h, _ in gold] + unknown)
    found = audit.what_if(values, judged(gold), judged(dev))
    assert [row.theta for row in found] == [i / 10 for i in range(1, 11)]
    for row in found:
        assert row.tau == threshold(values, row.theta)
        assert row.rows == sum(h <= row.tau for h in values.tolist())
        for known, interval in ((gold, row.gold), (dev, row.dev)):
            kept = [right for h, right in known if h <= row.tau]
            assert (interval and interval.value) == (sum(kept) / len(kept) if kept else None)


def test_what_if_without_gold_knows_rows_and_no_precision() -> None:
    found = audit.what_if(floats([0.1, 0.2]), None, None)
    assert {(row.gold, row.dev) for row in found} == {(None, None)}
    assert found[-1].rows == 2


def test_what_if_without_a_confidence_is_empty() -> None:
    assert audit.what_if(floats([]), None, None) == []


def coded(texts: list[str | None]) -> Coded:
    values = sorted({text for text in texts if text is not None})
    return Coded(np.array([-1 if text is None else values.index(text) for text in texts], dtype=np.int64), values)


@given(ANSWERS)
def test_pairs_are_equal_row_by_row_in_the_order_asked(answers: list[tuple[str | None, ...]]) -> None:
    a, b = ([row[i] for row in answers] for i in range(2))
    found = audit.equal_pairs(coded(a), coded(b), lambda x, y: x <= y)  # not symmetric
    assert found.tolist() == [-1 if x is None or y is None else int(x <= y) for x, y in zip(a, b, strict=True)]


@given(ANSWERS)
def test_agreement_counts_rows_where_both_are_readable_and_equal(answers: list[tuple[str | None, ...]]) -> None:
    counts = audit.agreement(
        [coded([row[i] for row in answers]) for i in range(3)], lambda a, b: a.lower() == b.lower()
    )
    for i in range(3):
        for j in range(3):
            same = [
                a is not None and b is not None and a.lower() == b.lower() for a, b in ((r[i], r[j]) for r in answers)
            ]
            assert counts[i, j] == sum(same)


def test_label_balance_leaves_the_rarest_labels_out() -> None:
    labeled = Counter({"plant": 5, "animal": 2})
    found = audit.label_balance(labeled, Counter({"food": 9, "animal": 1}), Counter({"food": 4}), {"time": 3}, most=3)
    assert [(r.label, r.labeled, r.answered, r.accepted, r.gold) for r in found] == [
        ("animal", 2, 1, 0, 0), ("food", 0, 9, 4, 0), ("plant", 5, 0, 0, 0),
    ]  # fmt: skip
