"""What errors of torch and vLLM say about an engine, and what the logs of a dead one add."""

import asyncio

import pytest

from semievol_ray.engines.base import Request, RequestFailedError, Sampling
from semievol_ray.engines.faults import reason, shortage, translated
from semievol_ray.engines.guarded import GuardedGenerator
from semievol_ray.errors import EngineDiedError

CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB"
LOG = f"""(EngineCore pid=77) ERROR 11-21 core.py:772] EngineCore failed to start.
(EngineCore pid=77) ERROR 11-21 core.py:772] Traceback (most recent call last):
(EngineCore pid=77) ERROR 11-21 core.py:772] torch.OutOfMemoryError: {CUDA}
ERROR async_llm.py: vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue."""


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (CUDA, "memory"),
        ("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried", "memory"),
        ("Free memory on device cuda:0 (1/80 GiB) on startup is less than desired GPU memory utilization", "share"),
        ("No available memory for the cache blocks. Try increasing `gpu_memory_utilization`", "cache"),
        ("(3.5 GiB KV cache is needed, which is larger than the available KV cache memory (1.2 GiB).", "cache"),
        ("CUDA error: an illegal memory access was encountered", None),
        ("the prompt is too long", None),
    ],
)
def test_shortage_is_known_by_the_words_of_torch_and_vllm(text: str, kind: str | None) -> None:
    assert shortage(text) == kind


def test_reason_of_a_dead_core_is_the_shortage_in_its_log() -> None:
    found = reason(RuntimeError("Engine core initialization failed. See root cause above."), LOG)
    assert shortage(found) == "memory"
    assert "Tried to allocate 2.00 GiB" in found


def test_reason_looks_through_causes() -> None:
    error = EngineDiedError("the vLLM engine died")
    error.__cause__ = RuntimeError(CUDA)
    assert shortage(reason(error, "")) == "memory"


def test_foreign_error_of_the_device_ends_the_engine_and_others_stay_themselves() -> None:
    assert isinstance(translated(RuntimeError(CUDA)), EngineDiedError)
    assert isinstance(translated(RuntimeError("CUDA error: device-side assert triggered")), EngineDiedError)
    other = RuntimeError("no such adapter")
    assert translated(other) is other


class _Failing:
    tokenizer = None
    max_num_seqs = 3

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def generate(self, request: Request) -> None:  # noqa: ARG002
        raise self._error

    score = generate

    def close(self) -> None:
        return None


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError(CUDA), EngineDiedError),
        (RequestFailedError("too long"), RequestFailedError),
        (RequestFailedError(f"http://far: status 500 ({CUDA}), the last of 3 tries"), RequestFailedError),
    ],
)
def test_guarded_engine_beats_and_raises_what_the_error_means(error: Exception, kind: type[Exception]) -> None:
    beats = list[int]()
    engine = GuardedGenerator(_Failing(error), lambda: beats.append(1))  # type: ignore[arg-type]
    with pytest.raises(kind):
        asyncio.run(engine.generate(Request((1,), Sampling(0.0, 4))))
    assert beats == [1]
