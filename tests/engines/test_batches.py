"""The order of the examples: every one once an epoch, whatever the machine."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol_ray.config import TrainConfig
from semievol_ray.engines.batches import in_order, num_steps, warm_up
from semievol_ray.engines.loss import FILLER, TrainingExample

EXAMPLES = [TrainingExample(tuple(range(5 + 7 * i % 11)), 1, 1.0, f"row-{i}") for i in range(10)]


@pytest.mark.parametrize(
    ("epochs", "max_steps", "expected"), [(1.0, None, 3), (2.0, None, 6), (1.5, None, 5), (0.1, None, 1), (2.0, 4, 4)]
)
def test_num_steps_counts_an_epochs_short_last_step(epochs: float, max_steps: int | None, expected: int) -> None:
    train = TrainConfig(train_batch_size=4, num_train_epochs=epochs, max_steps=max_steps)
    assert num_steps(train, len(EXAMPLES)) == expected
    assert len(in_order(EXAMPLES, train, 0)) == expected * 4


@pytest.mark.parametrize(("steps", "expected"), [(1, 0), (2, 1), (10, 1), (11, 2), (30, 3)])
def test_warm_up_is_a_share_of_the_steps_and_never_the_only_one(steps: int, expected: int) -> None:
    assert warm_up(TrainConfig(warmup_ratio=0.1), steps) == expected


def test_order_of_two_epochs_has_every_example_twice_and_each_step_longest_first() -> None:
    order = list(in_order(EXAMPLES, TrainConfig(train_batch_size=4, num_train_epochs=2), 0))
    first, second = order[:12], order[12:]
    for epoch in (first, second):
        assert Counter(e.row_id for e in epoch if e is not FILLER) == Counter(e.row_id for e in EXAMPLES)
    assert first != second
    for start in range(0, len(order), 4):
        lengths = [len(e.ids) for e in order[start : start + 4] if e is not FILLER]
        assert lengths == sorted(lengths, reverse=True)


def test_order_depends_on_the_seed_alone() -> None:
    train = TrainConfig(train_batch_size=4)
    assert list(in_order(EXAMPLES, train, 1)) == list(in_order(EXAMPLES, train, 1))
    assert list(in_order(EXAMPLES, train, 1)) != list(in_order(EXAMPLES, train, 2))


def _of_objects(train: TrainConfig, seed: int, num: int) -> list[TrainingExample]:
    """The order written down with the examples themselves, shuffled and sorted as Python does."""
    examples, batch, steps = EXAMPLES[:num], train.train_batch_size, num_steps(train, num)
    ordered = list[TrainingExample]()
    for epoch in range(100):
        shuffled = random.Random(f"{seed}/{epoch}").sample(examples, num)
        for start in range(0, num, batch):
            step = sorted(shuffled[start : start + batch], key=lambda example: -len(example.ids))
            ordered += [*step, *[FILLER] * (batch - len(step))]
    return ordered[: steps * batch]


@given(st.integers(1, 10), st.integers(1, 12), st.floats(0.1, 5), st.integers(0, 3), st.slices(60))
def test_order_by_numbers_is_that_of_the_examples_themselves(
    num: int, batch: int, epochs: float, seed: int, cut: slice
) -> None:
    train = TrainConfig(train_batch_size=batch, num_train_epochs=epochs)
    found, expected = in_order(EXAMPLES[:num], train, seed), _of_objects(train, seed, num)
    assert list(found) == expected
    assert list(found[cut]) == expected[cut]
    assert all(one is FILLER for one, other in zip(found, expected, strict=True) if other is FILLER)
