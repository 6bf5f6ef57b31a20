"""How much memory a fine-tuning takes, reckoned from a model's shape before anything is loaded; no torch in here.

Invariant: every figure is a sum that a person can follow: weights + gradients + optimizer + activations, per worker.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from semievol_ray.config import SpeedConfig, TrainConfig
from semievol_ray.engines.deepspeedconfig import micro_batch, sums_in_float32
from semievol_ray.engines.footprint import decoder_config, key_value_size, tensor_shapes

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
FOUR_BITS = 0.55
"""Bytes of a weight in nf4 with double quantization, its scales among them."""
ALL_LINEAR = "all-linear"
_NO_LINEAR = re.compile(
    r"(^|\.)(embed_tokens|wte|wpe|lm_head|embed_out)\.|norm|\.ln_"
    r"|(^|\.)((vision|audio)_(tower|model)|visual|multi_modal_projector)\."
)
"""Layers that get no adapter: the embeddings, norms, and what an image or audio tower has."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder: parameters (tied ones once), of its largest layer, of its linear layers (out, in) by name."""

    num_parameters: int
    largest_layer: int
    num_layers: int
    hidden_size: int
    intermediate_size: int
    key_value_size: int
    vocab_size: int
    linear: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Plan:
    """What decides the memory of one worker: parameters that learn, bytes of a number, and how the work is spread.

    `width` is the longest micro-batch in tokens, padding too; `num_kept` the positions whose logits are made.
    """

    num_trainable: int
    num_bytes: int
    num_workers: int
    stage: int
    offload: str
    checkpointing: bool
    micro_batch: int
    width: int
    num_kept: int
    four_bits: bool = False
    packed: bool = False
    is_bfloat16: bool = False
    accumulates: bool = False


@dataclass(frozen=True)
class Needs:
    """Bytes of one worker on its device, and of those that offload keeps in the host's memory."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    host: int

    @property
    def states(self) -> int:
        """All but activations."""
        return self.weights + self.gradients + self.optimizer

    @property
    def device(self) -> int:
        return self.states + self.activations


def shape_of(folder: str) -> ModelShape | None:
    """The shape of a model folder, from its configuration and the headers of its files; None where they tell none."""
    shapes = tensor_shapes(folder)
    try:
        config = decoder_config(folder)
        keys = key_value_size(config)
        sizes = [config[key] for key in ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not shapes or not all(isinstance(size, int) for size in sizes):
        return None
    linear = tuple(
        (name.removesuffix(".weight"), *shape)
        for name, shape in shapes.items()
        if len(shape) == 2 and name.endswith(".weight") and not _NO_LINEAR.search(name)
    )
    return ModelShape(
        num_parameters=sum(math.prod(shape) for shape in shapes.values()),
        largest_layer=max(math.prod(shape) for shape in shapes.values()),
        num_layers=sizes[0],
        hidden_size=sizes[1],
        intermediate_size=sizes[2],
        key_value_size=keys,
        vocab_size=sizes[3],
        linear=linear,
    )


def num_trainable(shape: ModelShape, train: TrainConfig) -> int:
    """Parameters that learn: all, or r x (in + out) of every linear layer that gets an adapter."""
    if train.method == "full":
        return shape.num_parameters
    return sum(train.lora_r * (a + b) for name, a, b in shape.linear if _is_target(name, train.target_modules))


def plan_of(shape: ModelShape, train: TrainConfig, speed: SpeedConfig, dtype: str) -> Plan:
    """The plan of a configuration before any example is known."""
    micro, accumulated = micro_batch(train, speed)
    return Plan(
        num_trainable=num_trainable(shape, train),
        num_bytes=BYTES[dtype],
        num_workers=speed.num_train_workers,
        stage=speed.zero_stage,
        offload=speed.offload,
        checkpointing=speed.gradient_checkpointing,
        micro_batch=micro,
        width=0,
        num_kept=0,
        four_bits=train.load_in_4bit,
        packed=speed.packing,
        is_bfloat16=dtype == "bfloat16",
        accumulates=accumulated > 1,
    )


def with_examples(plan: Plan, lengths: Sequence[tuple[int, int]]) -> Plan:
    """The plan with its longest micro-batch of examples of these (tokens, answer tokens): padded, or packed."""
    longest = sorted(lengths, reverse=True)[: plan.micro_batch]
    answers = sorted((answer for _, answer in lengths), reverse=True)[: plan.micro_batch]
    if plan.packed:
        return replace(plan, width=sum(tokens for tokens, _ in longest), num_kept=sum(answers))
    return replace(plan, width=len(longest) * longest[0][0], num_kept=len(longest) * (answers[0] + 1))


def needs(shape: ModelShape, plan: Plan) -> Needs:
    """Bytes of a worker. States of 16-bit weights are those of DeepSpeed's own estimators.

    A parameter that learns has a gradient in its own dtype, or that in which micro-batches are summed, and, in float32,
    a copy, a gradient (ZeRO 1 and 2) and two moments. Stage 1 cuts all but weights and gradients, 2 cuts gradients too,
    3 weights too but for the largest layer.
    """
    trained, workers, size = plan.num_trainable, plan.num_workers, plan.num_bytes
    each = FOUR_BITS if plan.four_bits else size
    weights = each * (shape.num_parameters / (workers if plan.stage == 3 else 1))
    whole = size * shape.largest_layer * (2 if trained >= shape.num_parameters else 1) if plan.stage == 3 else 0
    is_wide = sums_in_float32(plan.stage, accumulates=plan.accumulates, is_bfloat16=plan.is_bfloat16)
    gradients = (4 if is_wide else size) * trained / (workers if plan.stage >= 2 else 1)
    of_each = {0: 8 if size == 4 else 12, 1: 16, 2: 16, 3: 12}[plan.stage]
    optimizer = of_each * trained / (workers if plan.stage else 1)
    host = 0.0
    if plan.offload != "none":
        host, gradients, optimizer = 16 * trained / workers, 0, 0
    if plan.offload == "all":
        host, weights = host + weights, 0
    return Needs(int(weights + whole), int(gradients), int(optimizer), activations(shape, plan), int(host))


def activations(shape: ModelShape, plan: Plan) -> int:
    """Bytes that a micro-batch keeps for its backward pass, and its logits.

    A layer of a Llama-like decoder keeps, for each token, 8 times the hidden size, twice that of keys and values, and
    four times the intermediate one; norms compute in float32. With checkpointing all keep their input alone but one.
    """
    size, h = plan.num_bytes, shape.hidden_size
    layer = plan.width * (size * (8 * h + 2 * shape.key_value_size + 4 * shape.intermediate_size) + (4 - size) * 2 * h)
    logits = plan.num_kept * shape.vocab_size * (size + 8 + (4 if size < 4 else 0))
    if plan.checkpointing:
        return shape.num_layers * plan.width * size * h + layer + logits
    return shape.num_layers * layer + logits


def remedies(shape: ModelShape, plan: Plan, limit: int, *, on_gpu: bool) -> list[str]:
    """Settings with which the same effective batch would fit `limit` bytes, those that cost least time first."""
    fitting = []
    for words, other in _alternatives(plan, on_gpu=on_gpu):
        found = needs(shape, other)
        if (need := found.device if on_gpu else found.device + found.host) <= limit:
            host = f", and {found.host / 1e9:.2f} GB of the machine's" if on_gpu and found.host else ""
            fitting.append(f"{words} ({need / 1e9:.2f} GB{host})")
    return fitting[:3]


def _alternatives(plan: Plan, *, on_gpu: bool) -> Iterator[tuple[str, Plan]]:
    sizes = [size for size in (plan.micro_batch // 2**n for n in range(1, 12)) if size]
    smaller = [(f"speed.per_device_train_batch_size: {size}", _cut(plan, size)) for size in sizes]
    yield from smaller
    checked = replace(plan, checkpointing=True)
    if not plan.checkpointing:
        yield "speed.gradient_checkpointing: true", checked
    least = _cut(checked, 1)
    thrift = "speed.gradient_checkpointing: true, speed.per_device_train_batch_size: 1"
    yield thrift, least
    for stage in range(plan.stage + 1, 4):
        if plan.num_workers > 1:
            yield f"speed.zero_stage: {stage}", replace(plan, stage=stage)
            yield f"speed.zero_stage: {stage}, {thrift}", replace(least, stage=stage)
    if on_gpu:
        yield f"speed.offload: optimizer, {thrift}", replace(least, offload="optimizer", stage=max(plan.stage, 1))
        yield f"speed.zero_stage: 3, speed.offload: all, {thrift}", replace(least, offload="all", stage=3)
        for workers in (plan.num_workers * 2**n for n in range(1, 7)):
            more = f"speed.num_train_workers: {workers}, speed.zero_stage: 3, {thrift}"
            yield more, replace(least, num_workers=workers, stage=3)


def _cut(plan: Plan, micro: int) -> Plan:
    share = micro / plan.micro_batch
    width, kept = int(plan.width * share), int(plan.num_kept * share)
    return replace(plan, micro_batch=micro, width=width, num_kept=kept, accumulates=True)


def _is_target(name: str, targets: Any) -> bool:
    if targets == ALL_LINEAR:
        return True
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)
