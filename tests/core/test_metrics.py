"""Intervals against resampling written out, and tables against hand counts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol_ray.core.metrics import (
    ClassRow,
    DecisionRow,
    bootstrap_interval,
    class_table,
    decision_table,
    paired_difference,
)
from semievol_ray.core.selection import Decision


def resampled(values: np.ndarray, num_resamples: int) -> tuple[float, float]:
    """The percentile bootstrap of a mean by drawing row indices."""
    rng = np.random.default_rng(7)
    means = values[rng.integers(0, len(values), (num_resamples, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def test_bootstrap_interval_matches_resampling_of_rows() -> None:
    correct = np.arange(200) % 10 < 7
    assert bootstrap_interval(correct) == pytest.approx(resampled(correct.astype(float), 10_000), abs=0.011)


def test_bootstrap_interval_depends_on_its_seed_alone() -> None:
    correct = np.arange(997) % 3 == 0
    assert bootstrap_interval(correct, seed=3) == bootstrap_interval(correct[::-1], seed=3)
    assert bootstrap_interval(correct, seed=3) != bootstrap_interval(correct, seed=4)


def test_bootstrap_interval_narrows_with_a_lower_level() -> None:
    correct = np.arange(100) % 2 == 0
    (low, high), (wide_low, wide_high) = bootstrap_interval(correct, level=0.5), bootstrap_interval(correct)
    assert wide_low < low < 0.5 < high < wide_high


def test_bootstrap_interval_of_perfect_answers_is_a_point() -> None:
    assert bootstrap_interval(np.ones(5, dtype=bool)) == (1.0, 1.0)


def test_bootstrap_interval_without_rows_raises() -> None:
    with pytest.raises(ValueError, match="no rows"):
        bootstrap_interval(np.zeros(0, dtype=bool))


def test_paired_difference_matches_resampling_of_pairs() -> None:
    a, b = np.arange(300) % 10 < 8, np.arange(300) % 6 < 4
    interval = paired_difference(a, b)
    assert interval.value == pytest.approx(a.mean() - b.mean())
    expected = resampled(a.astype(float) - b.astype(float), 10_000)
    assert (interval.low, interval.high) == pytest.approx(expected, abs=0.011)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from("abcdefgh")), min_size=1, max_size=40))
def test_paired_difference_of_rows_that_share_questions_resamples_questions(
    rows: list[tuple[bool, bool, str]],
) -> None:
    a, b = (np.array(side, dtype=bool) for side in list(zip(*rows, strict=True))[:2])
    questions = [question for _, _, question in rows]
    interval = paired_difference(a, b, questions)
    of = [[int(x) - int(y) for x, y, asked in rows if asked == q] for q in sorted(set(questions))]
    sums, sizes = (np.array([f(values) for values in of]) for f in (sum, len))
    drawn = np.random.default_rng(7).integers(0, len(of), (10_000, len(of)))
    values = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    assert interval.value == pytest.approx(a.mean() - b.mean())
    for end, share in ((interval.low, 0.025), (interval.high, 0.975)):
        around = np.quantile(values, [max(0.0, share - 0.012), min(1.0, share + 0.012)])
        assert around[0] - 1e-9 <= end <= around[1] + 1e-9


def test_intervals_of_the_same_rows_repeated_are_those_of_one_copy() -> None:
    a, b, questions = np.arange(300) % 10 < 8, np.arange(300) % 6 < 4, [str(i) for i in range(300)]
    thrice = paired_difference(np.tile(a, 3), np.tile(b, 3), questions * 3)
    assert thrice == paired_difference(a, b, questions) == paired_difference(a, b)
    assert bootstrap_interval(np.tile(a, 3), questions * 3) == bootstrap_interval(a)


def test_paired_difference_of_equal_answers_is_zero_without_doubt() -> None:
    a = np.arange(50) % 2 == 0
    interval = paired_difference(a, a.copy())
    assert (interval.value, interval.low, interval.high) == (0.0, 0.0, 0.0)


def test_paired_difference_of_unequal_rows_raises() -> None:
    with pytest.raises(ValueError, match="same rows: 2 and 3"):
        paired_difference(np.ones(2, dtype=bool), np.ones(3, dtype=bool))


def test_class_table_counts_unreadable_as_a_miss() -> None:
    gold = ["A", "A", "A", "B", "D"]
    predicted = ["A", "B", None, "B", "C"]
    assert class_table(gold, predicted) == [
        ClassRow("A", 3, 1.0, 1 / 3, 0.5),
        ClassRow("B", 1, 0.5, 1.0, 2 / 3),
        ClassRow("C", 0, 0.0, None, 0.0),
        ClassRow("D", 1, None, 0.0, 0.0),
    ]


def test_decision_table_lists_every_decision_and_judges_only_rows_with_gold() -> None:
    table = decision_table({"accepted": (3, 2, 1), "uncertain": (1, 0, 0)})
    assert table == [
        DecisionRow(Decision.ACCEPTED, 3, 0.75, 2, 0.5),
        DecisionRow(Decision.UNCERTAIN, 1, 0.25, 0, None),
        DecisionRow(Decision.UNREADABLE, 0, 0.0, 0, None),
        DecisionRow(Decision.ENGINE_ERROR, 0, 0.0, 0, None),
    ]


def test_decision_table_of_an_unknown_decision_raises() -> None:
    with pytest.raises(ValueError, match="maybe"):
        decision_table({"maybe": (1, 0, 0)})
