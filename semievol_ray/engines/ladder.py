"""The ladder down which an engine that ran out of memory goes, a rung a restart.

Invariant: a rung changes speed alone: never max_model_len, nor anything else that changes outputs.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from semievol_ray.engines.base import EngineSpec
from semievol_ray.engines.faults import Shortage

DEFAULT_UTILIZATION = 0.92
_LEAST_TOKENS, _LEAST_SHARE, _MARGIN = 256, 0.1, 0.02
_FREE = re.compile(r"\(([0-9.]+)/([0-9.]*[1-9][0-9.]*) GiB\) on startup")


def default_max_num_seqs(kind: str, *, on_gpu: bool) -> int:
    """Requests an engine of this kind answers at once where nothing is configured."""
    return {"transformers": 16, "vllm": 256 if on_gpu else 64}.get(kind, 64)


def rung_below(spec: EngineSpec, settings: Mapping[str, Any], shortage: Shortage, seen: str) -> dict[str, Any] | None:
    """The one setting that the next rung changes, where `settings` are laid over the speed settings; None on the last.

    For memory: fewer requests at once, then smaller batches, then less of the device. For a cache that had no room
    first more of the device. For a share that others have, `seen` telling what they left: less of the device alone.
    """
    requests = ("max_num_seqs", _fewer_requests(spec))
    if spec.kind in ("transformers", "openai"):
        steps: list[tuple[str, list[Any]]] = [requests]
    else:
        num_seqs = int(settings.get("max_num_seqs", _max_num_seqs(spec)))
        batches = ("max_num_batched_tokens", _smaller_batches(spec, num_seqs))
        share = ("gpu_memory_utilization", _shares(spec, settings, shortage, seen) if spec.on_gpu else [])
        orders: dict[str, list[tuple[str, list[Any]]]] = {
            "memory": [requests, batches, share],
            "cache": [share, requests, batches],
            "share": [share],
        }
        steps = orders[shortage]
    for name, values in steps:
        for value in values:
            if name not in settings or value < settings[name]:
                return {name: value}
    return None


def shown(settings: Mapping[str, Any]) -> str:
    """Settings as a person reads them: `max_num_seqs 128, max_num_batched_tokens 2048`."""
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def exhausted(spec: EngineSpec, settings: Mapping[str, Any], seen: str) -> str:
    """What is said when the last rung ran out of memory too."""
    tried = shown(settings) or "the settings as configured"
    one = "a quantized or smaller model" if spec.kind != "openai" else "another model"
    return (
        f"{spec.model} does not fit this device: with {tried} it still ran out of memory ({seen}). Weights in "
        f"{spec.dtype} and a cache for {spec.max_model_len} tokens (numerics.max_model_len) have to fit together: take "
        f"a smaller numerics.max_model_len, {one}, more GPUs an engine (speed.engine_kwargs.tensor_parallel_size), or "
        "end what else uses the device, and run the same command again."
    )


def _max_num_seqs(spec: EngineSpec) -> int:
    return int(spec.speed.get("max_num_seqs", default_max_num_seqs(spec.kind, on_gpu=spec.on_gpu)))


def _fewer_requests(spec: EngineSpec) -> list[int]:
    """Halves of max_num_seqs: three of them, for an engine of transformers all down to one request."""
    most = _max_num_seqs(spec)
    rungs = 10 if spec.kind == "transformers" else 3
    return sorted({max(1, most >> n) for n in range(1, rungs + 1)} - {most}, reverse=True)


def _smaller_batches(spec: EngineSpec, max_num_seqs: int) -> list[int]:
    """Quarters of max_num_batched_tokens; vLLM wants no fewer tokens than requests, nor than an unchunked prompt."""
    most = int(spec.speed.get("max_num_batched_tokens", 8192 if spec.on_gpu else 2048))
    floor = max(max_num_seqs, _LEAST_TOKENS)
    floor = max(floor, spec.max_model_len) if spec.speed.get("enable_chunked_prefill") is False else floor
    return sorted({n for n in (most // 4, most // 16) if n >= floor}, reverse=True)


def _shares(spec: EngineSpec, settings: Mapping[str, Any], shortage: Shortage, seen: str) -> list[float]:
    """Shares of the device to try: more for a cache, once; what is free where others have it; else steps of a tenth."""
    begun = float(spec.speed.get("gpu_memory_utilization", DEFAULT_UTILIZATION))
    now = float(settings.get("gpu_memory_utilization", begun))
    if shortage == "cache":
        more = round(begun + 0.04, 2)
        return [more] if "gpu_memory_utilization" not in settings and more <= 0.98 else []
    if shortage == "share":
        free = _FREE.search(seen)
        left = float(free[1]) / float(free[2]) - _MARGIN if free else now - 0.1
        less = math.floor(100 * min(left, now - _MARGIN)) / 100
        return [less] if less >= _LEAST_SHARE else []
    return [less for step in (0.1, 0.2) if (less := round(begun - step, 2)) >= 0.3]
