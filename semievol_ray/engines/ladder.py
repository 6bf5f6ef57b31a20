"""The ladder down which an engine that ran out of memory goes, a rung a restart.

Invariant: a rung changes speed alone: never max_model_len, nor anything else that changes outputs.
"""

from collections.abc import Mapping
from typing import Any

from semievol_ray.engines.base import EngineSpec
from semievol_ray.engines.faults import Shortage

DEFAULT_UTILIZATION = 0.92
_LEAST_TOKENS = 256


def default_max_num_seqs(kind: str, *, on_gpu: bool) -> int:
    """Requests an engine of this kind answers at once where nothing is configured."""
    return {"transformers": 16, "vllm": 256 if on_gpu else 64}.get(kind, 64)


def ladder(spec: EngineSpec, shortage: Shortage) -> tuple[dict[str, Any], ...]:
    """What each rung lays over the speed settings: fewer requests at once, then smaller batches, then another share.

    For a cache that had no room the last rungs give the engine more of the device, else less.
    """
    seqs = [{"max_num_seqs": n} for n in _fewer_requests(spec)]
    last = seqs[-1] if seqs else {}
    if spec.kind in ("transformers", "openai"):
        return tuple(seqs)
    least = int(last.get("max_num_seqs", _max_num_seqs(spec)))
    tokens = [{**last, "max_num_batched_tokens": n} for n in _smaller_batches(spec, least)]
    last = tokens[-1] if tokens else last
    shares = _shares(spec.speed, shortage) if spec.on_gpu else []
    return (*seqs, *tokens, *({**last, "gpu_memory_utilization": share} for share in shares))


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


def _shares(speed: Mapping[str, Any], shortage: Shortage) -> list[float]:
    share = float(speed.get("gpu_memory_utilization", DEFAULT_UTILIZATION))
    steps = (0.04, 0.07) if shortage == "cache" else (-0.1, -0.2)
    return [round(share + step, 2) for step in steps if 0.3 <= share + step <= 0.98]
