"""Fit before start: a worker's fine-tuning held against the memory that its device has, before anything is loaded.

Invariant: what is refused is refused with the sum, and with settings that would fit where there are any.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from semievol_ray import machine
from semievol_ray.config import SpeedConfig, TrainConfig
from semievol_ray.engines.examples import sizes_of
from semievol_ray.engines.loss import TrainingExample
from semievol_ray.engines.memory import ModelShape, Plan, needs, plan_of, remedies, shape_of, with_examples
from semievol_ray.engines.references import local_weights
from semievol_ray.errors import PlacementError

SHARE = 0.95
"""Of the memory that is free: the libraries' own buffers take some."""


@dataclass(frozen=True)
class Sizing:
    """What decides a worker's memory: the model's shape, the plan of the work, and on what."""

    shape: ModelShape
    plan: Plan
    on_gpu: bool

    @property
    def needed(self) -> int:
        """Bytes of one worker; on a CPU what is offloaded lies in the same memory."""
        found = needs(self.shape, self.plan)
        return found.device + (0 if self.on_gpu else found.host)

    def told(self) -> str:
        """The sum in words."""
        found = needs(self.shape, self.plan)
        parts = {"weights": found.weights, "gradients": found.gradients, "optimizer": found.optimizer}
        parts |= {"activations": found.activations} if found.activations else {}
        parts |= {"offloaded": found.host} if found.host and not self.on_gpu else {}
        return " + ".join(f"{name} {gb(size)}" for name, size in parts.items())


def refuse_unfit(
    model_path: str,
    train: TrainConfig,
    speed: SpeedConfig,
    dtype: str,
    examples: Sequence[TrainingExample],
    *,
    on_gpu: bool,
) -> Sizing | None:
    """What decides a worker's memory in this fine-tuning; None for a model whose shape its files do not tell.

    Raises PlacementError when this worker's device, or host, has less memory free.
    """
    if (shape := shape_of(model_path)) is None:
        return None
    plan = plan_of(shape, train, speed, dtype)
    plan = with_examples(plan, lengths_of(examples, plan.micro_batch))
    sizing = Sizing(shape, plan, on_gpu)
    free = free_bytes(on_gpu=on_gpu)
    if told := shortage(sizing, free):
        raise PlacementError(told)
    _wait_for_the_others()
    return sizing


def shortage(sizing: Sizing, free: int) -> str | None:
    """Why a worker does not fit `free` bytes, in one line with the sum and what would fit; None when it does."""
    shape, plan, limit = sizing.shape, sizing.plan, int(SHARE * free)
    if sizing.needed <= limit:
        return None
    ways = remedies(shape, plan, limit, on_gpu=sizing.on_gpu)
    remedy = f"What would fit: {'; or '.join(ways)}." if ways else "No setting makes it fit: use a smaller model."
    if not ways and plan.num_trainable >= shape.num_parameters:
        remedy = "No setting makes it fit: use train.method: lora, a smaller model, or more memory."
    at_a_time = f"; up to {plan.width:,} tokens of {plan.micro_batch} examples at a time" if plan.width else ""
    return (
        f"fine-tuning does not fit its {'GPU' if sizing.on_gpu else 'machine'}: a worker needs {gb(sizing.needed)} "
        f"({sizing.told()}{at_a_time}) and has {gb(free)}, of which {SHARE:.0%} is used. {remedy}"
    )


def lengths_of(examples: Sequence[TrainingExample], most: int | None = None) -> list[tuple[int, int]]:
    """The `most` largest numbers of tokens, and of answer tokens, of examples; all of them when None."""
    import numpy as np

    tokens, answers = (np.sort(sizes_N)[::-1][:most].tolist() for sizes_N in sizes_of(examples))
    return list(zip(tokens, answers, strict=True))


def reckoned(model_path: str, train: TrainConfig, speed: SpeedConfig, dtype: str, *, on_gpu: bool) -> str | None:
    """What a person is told of a worker's memory before any example is read; None for a model of unknown shape."""
    if (shape := shape_of(local_weights(model_path))) is None:
        return None
    sizing = Sizing(shape, plan_of(shape, train, speed, dtype), on_gpu)
    learned = sizing.plan.num_trainable / shape.num_parameters
    return (
        f"{sizing.plan.num_trainable:,} of {shape.num_parameters:,} parameters learn ({learned:.1%}); a worker needs "
        f"{gb(sizing.needed)} ({sizing.told()}) and what the examples take, which the first step shows"
    )


def free_bytes(*, on_gpu: bool) -> int:
    """Memory free for this worker: of its GPU, or its share of the host's within a container's limit."""
    if not on_gpu:
        return machine.free_memory() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    import torch

    free: int = torch.cuda.mem_get_info()[0]
    return free


def _wait_for_the_others() -> None:
    """No worker loads before all have looked: what one takes would be missing in another's share."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def gb(size: float) -> str:
    """Bytes as a person reads them, two decimals for small models' sake."""
    return f"{size / 1e9:.2f} GB"
