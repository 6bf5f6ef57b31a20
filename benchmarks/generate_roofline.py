"""How fast a device could generate at best: bytes and FLOPs a token over its measured bandwidth and matmul rate.

Invariant: a bound counts only what no engine can leave out: the weights once a step, each sequence's KV cache, two
FLOPs a parameter and token; so that a measured rate above it is an error of measurement.
"""

import time
from dataclasses import dataclass
from typing import Any

from benchmarks.generate_model import Shape, shape_of
from benchmarks.scale_child import Phase

SECONDS = 1.0
"""For how long each rate is measured."""


@dataclass(frozen=True)
class Device:
    """What a device was measured to do."""

    bytes_per_second: float
    flops_per_second: float


@dataclass(frozen=True)
class Load:
    """What a row asks for on average: prompt tokens that are worked on (not from a cache), and generated ones."""

    computed_tokens: float
    context_tokens: float
    generated_tokens: float


@dataclass(frozen=True)
class Bound:
    """Seconds a request by each limit at best; the larger of both sums over prompt and generation is the bound."""

    prompt_seconds: float
    generation_seconds: float
    generation_limit: str

    @property
    def seconds(self) -> float:
        return self.prompt_seconds + self.generation_seconds


def bound(shape: Shape, load: Load, device: Device, batch: int, num_bytes: int) -> Bound:
    """The least seconds a request, `batch` of them at once; weights and cache of `num_bytes` a number.

    A prompt is bound by FLOPs (its tokens share one reading of the weights). A generation step reads the weights once
    for the batch and each sequence's cache, and multiplies once a sequence: the slower of both counts.
    """
    flops_a_token = 2.0 * shape.multiplied()
    attention = 4.0 * shape.layers * shape.heads * shape.head_dim
    prompt = load.computed_tokens * (flops_a_token + attention * load.context_tokens / 2) / device.flops_per_second
    step_bytes = num_bytes * (shape.multiplied() / batch + shape.kv_values() * load.context_tokens)
    by_bytes = step_bytes / device.bytes_per_second
    by_flops = (flops_a_token + attention * load.context_tokens) / device.flops_per_second
    limit = "bandwidth" if by_bytes > by_flops else "matmul"
    return Bound(prompt, load.generated_tokens * max(by_bytes, by_flops), limit)


def work(settings: dict[str, Any], phase: Phase) -> None:
    """settings: model (a folder), gpu, threads. Says the rates that torch reaches here."""
    import torch

    torch.set_num_threads(settings["threads"])
    device, dtype = ("cuda", torch.bfloat16) if settings["gpu"] else ("cpu", torch.float32)
    width = 8192 if settings["gpu"] else shape_of(settings["model"]).intermediate
    with phase("roofline") as said:
        said["bytes_per_second"] = _bandwidth(torch, device, settings["gpu"])
        said["flops_per_second"] = _matmul(torch, device, dtype, width)


def _bandwidth(torch: Any, device: str, gpu: bool) -> float:
    """Bytes a second that a large array is read at, by its sum."""
    array = torch.ones((2**32 if gpu else 2**28) // 4, dtype=torch.float32, device=device)
    seconds, repeats = _timed(torch, device, array.sum)
    return float(array.numel() * 4 * repeats / seconds)


def _matmul(torch: Any, device: str, dtype: Any, width: int) -> float:
    """FLOPs a second of a square matmul."""
    a, b = (torch.rand((width, width), device=device).to(dtype) for _ in range(2))
    seconds, repeats = _timed(torch, device, lambda: a @ b)
    return 2.0 * width**3 * repeats / seconds


def _timed(torch: Any, device: str, once: Any) -> tuple[float, int]:
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    once()
    wait()
    began, repeats = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        once()
        repeats += 1
        wait()
    return time.perf_counter() - began, repeats
