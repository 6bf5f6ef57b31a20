"""Which examples each optimizer step learns from, decided before training starts; no torch in here.

Invariant: a step's examples depend on the seed and the effective batch alone, not on workers, micro-batches or packing.
"""

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

from semievol_ray.config import SpeedConfig, TrainConfig
from semievol_ray.engines.deepspeedconfig import micro_batch
from semievol_ray.engines.examples import sizes_of
from semievol_ray.engines.loss import FILLER, TrainingExample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def num_steps(train: TrainConfig, num_examples: int) -> int:
    """Optimizer steps of a fine-tuning; an epoch's last step may hold fewer examples than the others."""
    return train.max_steps or math.ceil(-(-num_examples // train.train_batch_size) * train.num_train_epochs)


def warm_up(train: TrainConfig, steps: int) -> int:
    """Steps before the learning rate's peak; none of a single one, which would learn nothing at a rate of 0."""
    return math.ceil(steps * train.warmup_ratio) if steps > 1 else 0


class Ordered(Sequence[TrainingExample]):
    """Examples as training meets them, by their numbers; FILLER where the number is -1. A slice is one, too."""

    def __init__(self, examples: Sequence[TrainingExample], order_N: "NDArray[np.int32]") -> None:
        self._examples, self._order = examples, order_N

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, at: int) -> TrainingExample: ...

    @overload
    def __getitem__(self, at: slice) -> "Ordered": ...

    def __getitem__(self, at: int | slice) -> "TrainingExample | Ordered":
        if isinstance(at, slice):
            return Ordered(self._examples, self._order[at])
        number = int(self._order[at])
        return FILLER if number < 0 else self._examples[number]


def in_order(examples: Sequence[TrainingExample], train: TrainConfig, seed: int) -> Ordered:
    """The examples as training meets them, `train_batch_size` a step; an epoch's last step is filled up with FILLER.

    Every epoch is a new shuffle. Within a step the longest stand first, so that micro-batches are of like lengths:
    little is padded, and the sum over the step stays what it is.
    """
    import numpy as np

    batch, num, steps = train.train_batch_size, len(examples), num_steps(train, len(examples))
    length_N, each = sizes_of(examples)[0], -(-num // batch) * batch
    epochs = -(-steps * batch // each)
    order = np.full((epochs, each), -1, np.int32)
    for epoch in range(epochs):
        shuffled = np.array(random.Random(f"{seed}/{epoch}").sample(range(num), num), np.int32)
        for start in range(0, num, batch):
            step = shuffled[start : start + batch]
            order[epoch, start : start + len(step)] = step[np.argsort(-length_N[step], kind="stable")]
    return Ordered(examples, order.reshape(-1)[: steps * batch])


def told(train: TrainConfig, speed: SpeedConfig, num_examples: int) -> str:
    """What a fine-tuning is about to do, in one line: steps, effective batch and how it comes about, schedule."""
    micro, accumulated = micro_batch(train, speed)
    steps = num_steps(train, num_examples)
    form = "packed" if speed.packing else "padded"
    return (
        f"{num_examples} examples, {steps} steps of {train.train_batch_size} (workers {speed.num_train_workers} x "
        f"{micro} {form} at a time x {accumulated}), ZeRO-{speed.zero_stage}, {train.lr_scheduler_type} from "
        f"{train.learning_rate:g} after {warm_up(train, steps)} steps of warm-up"
    )
