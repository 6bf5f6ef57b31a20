"""Which examples each optimizer step learns from, decided before training starts; no torch in here.

Invariant: a step's examples depend on the seed and the effective batch alone, not on workers, micro-batches or packing.
"""

import math
import random
from collections.abc import Sequence

from semievol_ray.config import SpeedConfig, TrainConfig
from semievol_ray.engines.deepspeedconfig import micro_batch
from semievol_ray.engines.loss import FILLER, TrainingExample


def num_steps(train: TrainConfig, num_examples: int) -> int:
    """Optimizer steps of a fine-tuning; an epoch's last step may hold fewer examples than the others."""
    return train.max_steps or math.ceil(-(-num_examples // train.train_batch_size) * train.num_train_epochs)


def in_order(examples: Sequence[TrainingExample], train: TrainConfig, seed: int) -> list[TrainingExample]:
    """The examples as training meets them, `train_batch_size` a step; an epoch's last step is filled up with FILLER.

    Every epoch is a new shuffle. Within a step the longest stand first, so that micro-batches are of like lengths:
    little is padded, and the sum over the step stays what it is.
    """
    batch, steps = train.train_batch_size, num_steps(train, len(examples))
    ordered: list[TrainingExample] = []
    for epoch in range(-(-steps // -(-len(examples) // batch))):
        shuffled = random.Random(f"{seed}/{epoch}").sample(examples, len(examples))
        for start in range(0, len(shuffled), batch):
            step = sorted(shuffled[start : start + batch], key=lambda example: -len(example.ids))
            ordered += [*step, *[FILLER] * (batch - len(step))]
    return ordered[: steps * batch]


def told(train: TrainConfig, speed: SpeedConfig, num_examples: int) -> str:
    """What a fine-tuning is about to do, in one line: steps, effective batch and how it comes about, schedule."""
    micro, accumulated = micro_batch(train, speed)
    steps = num_steps(train, num_examples)
    form = "packed" if speed.packing else "padded"
    return (
        f"{num_examples} examples, {steps} steps of {train.train_batch_size} (workers {speed.num_train_workers} x "
        f"{micro} {form} at a time x {accumulated}), ZeRO-{speed.zero_stage}, {train.lr_scheduler_type} from "
        f"{train.learning_rate:g} after {math.ceil(steps * train.warmup_ratio)} steps of warm-up"
    )
