"""The pace of a fine-tuning as its steps end: tokens a second, memory, MFU; and whether later steps still fit.

Invariant: figures are of the examples' own tokens, padding left out, and memory is that of the first worker.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from semievol_ray.engines.fit import Sizing
from semievol_ray.engines.flops import peak_flops, step_flops
from semievol_ray.engines.loss import TrainingExample


@dataclass(frozen=True)
class Work:
    """What is to be done: the examples in order, `batch` of them a step, on how many workers and on what."""

    examples: Sequence[TrainingExample]
    batch: int
    num_workers: int
    dtype: str
    on_gpu: bool
    sizing: Sizing | None = None


class Pace:
    """Measures from one step to the next; made when training starts."""

    def __init__(self, work: Work) -> None:
        self._work, self._last = work, time.perf_counter()
        self._peak = peak_flops(_device_name(), work.dtype) if work.on_gpu else None

    def begin(self) -> None:
        """Training starts now: what came before belongs to no step."""
        self._last = time.perf_counter()

    def measured(self, step: int) -> dict[str, float]:
        """Figures of the step (from 1) that ended now; `mfu` only where the device's peak is known."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        work = self._work
        examples = work.examples[(step - 1) * work.batch : step * work.batch]
        tokens = sum(len(e.ids) for e in examples if e.num_answer)
        found = {
            "seconds": round(seconds, 4),
            "tokens": float(tokens),
            "tokens_per_second": round(tokens / seconds, 2),
            "tokens_per_second_per_device": round(tokens / seconds / work.num_workers, 2),
            "memory_bytes": float(peak_bytes(on_gpu=work.on_gpu)),
        }
        if self._peak and work.sizing:
            flops = step_flops(work.sizing.shape, work.sizing.plan.num_trainable, examples)
            found["mfu"] = round(flops / (seconds * self._peak * work.num_workers), 4)
        return found


def peak_bytes(*, on_gpu: bool) -> int:
    """The most memory this process has held so far: on its GPU, else of the machine."""
    if on_gpu:
        import torch

        held: int = torch.cuda.max_memory_allocated()
        return held
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _device_name() -> str:
    import torch

    name: Any = torch.cuda.get_device_name()
    return str(name)
