"""Which arguments vLLM's engine is given and takes; no vLLM is imported."""

from typing import Any

import pytest

from semievol_ray.core.answers import Number
from semievol_ray.engines import vllm
from semievol_ray.engines.base import EngineSpec
from semievol_ray.engines.vllm import engine_arguments
from semievol_ray.engines.vllmarguments import engine_argument_names, unknown_arguments


def _spec(on_gpu: bool = False, **speed: Any) -> EngineSpec:
    return EngineSpec(
        kind="vllm", model="m", model_path="m", merged=None, adapters={}, dtype="float32", max_model_len=512,
        max_lora_rank=16, seed=0, num_threads=1, on_gpu=on_gpu, answer_format=Number(), speed=speed,
    )  # fmt: skip


def test_arguments_that_the_installed_vllm_has_not_are_named_with_the_nearest() -> None:
    assert unknown_arguments(["max_num_seqs", "max_num_sqs", "colour_of_cache"]) == {
        "max_num_sqs": "max_num_seqs",
        "colour_of_cache": None,
    }


def test_every_argument_that_engines_are_given_is_known_to_the_installed_vllm() -> None:
    for on_gpu in (False, True):
        assert not unknown_arguments(engine_arguments(_spec(on_gpu)))
    assert "enable_log_requests" in engine_argument_names()  # of the asynchronous engine's own


@pytest.mark.parametrize(("variable", "gibibytes"), [(None, 2), ("", 2), ("5", 5)])
def test_cache_on_a_cpu_is_what_vllms_variable_says_or_two_gibibytes(
    variable: str | None, gibibytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    if variable is not None:
        monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", variable)
    assert engine_arguments(_spec())["kv_cache_memory_bytes"] == gibibytes * 2**30
    assert "kv_cache_memory_bytes" not in engine_arguments(_spec(on_gpu=True))


def test_configured_cache_goes_before_vllms_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "VLLM_CPU_KVCACHE_SPACE", "OMP_NUM_THREADS", "VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_CPU_OMP_THREADS_BIND",
        "VLLM_CPU_NUM_OF_RESERVED_CPU", "VLLM_LOGGING_LEVEL",
    ):  # fmt: skip
        monkeypatch.setenv(name, "4")  # put back afterwards
    spec = _spec(kv_cache_memory_bytes=300 * 2**20)
    vllm._set_environment(spec)
    assert engine_arguments(spec)["kv_cache_memory_bytes"] == 300 * 2**20
    assert "VLLM_CPU_KVCACHE_SPACE" not in vllm.os.environ


@pytest.mark.parametrize("num", [1, 2])
def test_workers_of_an_engine_are_bound_to_no_numa_nodes_of_which_there_may_be_fewer(
    num: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment: dict[str, str] = {}
    monkeypatch.setattr(vllm.os, "environ", environment)
    vllm._set_environment(_spec(tensor_parallel_size=num))
    assert environment["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
