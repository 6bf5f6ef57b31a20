"""Times from a model's shape and a device's figures: the bound of arithmetic and that of memory, whichever is longer.

Invariant: a lower bound divided by the shares of the peak that engines reach; nothing is measured.
"""

from dataclasses import dataclass

PREFILL_SHARE, DECODE_SHARE, TRAIN_SHARE = 0.5, 0.6, 0.35
"""Of a device's peak: arithmetic of prompts, memory traffic of generation, arithmetic of fine-tuning."""


@dataclass(frozen=True)
class Device:
    """One accelerator, or the CPUs of one engine: dense operations and bytes of memory traffic a second, memory."""

    name: str
    flops: float
    bandwidth: float
    memory_bytes: float


@dataclass(frozen=True)
class Shape:
    """A decoder: parameters, bytes of each, and bytes of keys and values that a token leaves."""

    num_parameters: float
    parameter_bytes: float
    token_bytes: float

    @property
    def weight_bytes(self) -> float:
        """All weights."""
        return self.num_parameters * self.parameter_bytes


GPUS = {
    "B200": Device("B200", 2250e12, 8.0e12, 180e9),
    "H200": Device("H200", 989e12, 4.8e12, 141e9),
    "H100": Device("H100", 989e12, 3.35e12, 80e9),
    "A100": Device("A100", 312e12, 2.0e12, 80e9),
    "L40S": Device("L40S", 362e12, 0.86e12, 48e9),
    "L4": Device("L4", 121e12, 0.3e12, 24e9),
    "A10": Device("A10", 125e12, 0.6e12, 24e9),
    "V100": Device("V100", 125e12, 0.9e12, 32e9),
    "T4": Device("T4", 65e12, 0.32e12, 16e9),
}
"""Data-sheet figures of half precision without sparsity."""


def gpu_named(name: str) -> Device | None:
    """The device in a name as drivers give it, such as NVIDIA A100-SXM4-80GB; None for one that is not listed."""
    words = name.upper().replace("-", " ").split()
    return next((gpu for key, gpu in GPUS.items() if any(word in (key, f"{key}G") for word in words)), None)


def row_seconds(shape: Shape, device: Device, prompt_tokens: float, tokens: float, max_num_seqs: int) -> float:
    """Seconds that one row takes of a full engine: its prompt's arithmetic, and its share of each decoding step."""
    prefill = 2 * shape.num_parameters * prompt_tokens / (device.flops * PREFILL_SHARE)
    batch = batch_size(shape, device, prompt_tokens + tokens, max_num_seqs)
    traffic = shape.weight_bytes + batch * shape.token_bytes * (prompt_tokens + tokens / 2)
    step = max(
        traffic / (device.bandwidth * DECODE_SHARE), 2 * shape.num_parameters * batch / (device.flops * PREFILL_SHARE)
    )
    return prefill + tokens * step / batch


def batch_size(shape: Shape, device: Device, row_tokens: float, max_num_seqs: int) -> int:
    """Rows that an engine decodes together: as many as keys and values find room for, `max_num_seqs` at most."""
    room = 0.9 * device.memory_bytes - shape.weight_bytes
    return max(1, min(max_num_seqs, int(room / (shape.token_bytes * row_tokens)))) if room > 0 else 1


def training_step_seconds(shape: Shape, device: Device, batch_tokens: float, *, is_full: bool) -> float:
    """Seconds of an optimizer step over so many tokens on one device: forward and backward, with all gradients if full.

    An adapter needs the gradients of activations, not those of the weights.
    """
    each = 6 if is_full else 4
    return each * shape.num_parameters * batch_tokens / (device.flops * TRAIN_SHARE)
