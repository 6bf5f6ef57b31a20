"""How many floating-point operations a fine-tuning's step takes, and what share of a device's peak that is (MFU).

Invariant: what a step has to compute is counted, not what it computes again (gradient checkpointing) nor padding.
"""

from collections.abc import Sequence

from semievol_ray.engines.loss import TrainingExample
from semievol_ray.engines.memory import ModelShape

PEAKS = {
    "B200": 2250e12, "H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10": 125e12,
    "V100": 125e12, "T4": 65e12, "RTX 4090": 165e12,
}  # fmt: skip
"""Operations a second of 16-bit matrices without sparsity, by a part of the device's name, as their makers state."""


def step_flops(shape: ModelShape, num_trainable: int, examples: Sequence[TrainingExample]) -> float:
    """Operations of one step over the examples, forward and backward.

    A matrix costs 2 per entry and token forward, 2 backward for what goes into it, and 2 for itself where it learns;
    attention over T tokens, half of them masked, 2 T^2 times the hidden size a layer forward and twice that backward.
    Logits are made for answers alone.
    """
    matrices = sum(rows * columns for _, rows, columns in shape.linear)
    tokens = sum(len(e.ids) for e in examples if e.num_answer)
    kept = sum(e.num_answer for e in examples)
    head = shape.vocab_size * shape.hidden_size
    learned = min(num_trainable, matrices)
    attention = sum(6.0 * len(e.ids) ** 2 for e in examples if e.num_answer) * shape.hidden_size * shape.num_layers
    return tokens * (4.0 * matrices + 2.0 * learned) + 4.0 * kept * head + attention


def peak_flops(device: str, dtype: str) -> float | None:
    """The peak of a device by its name, for 16-bit numbers; None where it is not known, as for a CPU."""
    if dtype not in ("bfloat16", "float16"):
        return None
    return next((peak for name, peak in PEAKS.items() if name in device), None)
