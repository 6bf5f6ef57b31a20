"""Fit before start: a worker's fine-tuning held against the memory that its device has, before anything is loaded.

Invariant: what is refused is refused with the sum, and with settings that would fit where there are any.
"""

import os
from collections.abc import Sequence

from semievol_ray import machine
from semievol_ray.config import SpeedConfig, TrainConfig
from semievol_ray.engines.loss import TrainingExample
from semievol_ray.engines.memory import ModelShape, Needs, Plan, needs, plan_of, remedies, shape_of
from semievol_ray.errors import PlacementError

SHARE = 0.95
"""Of the memory that is free: the libraries' own buffers take some."""


def refuse_unfit(
    model_path: str,
    train: TrainConfig,
    speed: SpeedConfig,
    dtype: str,
    examples: Sequence[TrainingExample],
    *,
    on_gpu: bool,
) -> Needs | None:
    """What a worker of this fine-tuning needs; None for a model whose shape its files do not tell.

    Raises PlacementError when this worker's device, or host, has less memory free.
    """
    if (shape := shape_of(model_path)) is None:
        return None
    longest = max(len(e.ids) for e in examples), max(e.num_answer for e in examples)
    plan = plan_of(shape, train, speed, dtype, longest)
    if told := shortage(shape, plan, free_bytes(on_gpu=on_gpu), on_gpu=on_gpu):
        raise PlacementError(told)
    return needs(shape, plan)


def shortage(shape: ModelShape, plan: Plan, free: int, *, on_gpu: bool) -> str | None:
    """Why a worker does not fit `free` bytes, in one line with the sum and what would fit; None when it does.

    On a CPU what is offloaded lies in the same memory.
    """
    found, limit = needs(shape, plan), int(SHARE * free)
    needed = found.device + (0 if on_gpu else found.host)
    if needed <= limit:
        return None
    ways = remedies(shape, plan, limit, on_gpu=on_gpu)
    remedy = f"What would fit: {'; or '.join(ways)}." if ways else "No setting makes it fit: use a smaller model."
    if not ways and plan.num_trainable >= shape.num_parameters:
        remedy = "No setting makes it fit: use train.method: lora, a smaller model, or more memory."
    where = "GPU" if on_gpu else "machine"
    return (
        f"fine-tuning does not fit its {where}: a worker needs {_gb(needed)} ({told(found, on_gpu=on_gpu)}; "
        f"{plan.micro_batch} examples of up to {plan.width // plan.micro_batch} tokens at a time), and "
        f"{_gb(free)} is free for it, of which {SHARE:.0%} is used. {remedy}"
    )


def told(found: Needs, *, on_gpu: bool) -> str:
    """The sum in words."""
    parts = {"weights": found.weights, "gradients": found.gradients, "optimizer": found.optimizer}
    parts |= {"activations": found.activations} if found.activations else {}
    parts |= {"offloaded": found.host} if found.host and not on_gpu else {}
    return " + ".join(f"{name} {_gb(size)}" for name, size in parts.items())


def free_bytes(*, on_gpu: bool) -> int:
    """Memory free for this worker: of its GPU, or its share of the host's within a container's limit."""
    if not on_gpu:
        return machine.free_memory() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    import torch

    free: int = torch.cuda.mem_get_info()[0]
    return free


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB"
