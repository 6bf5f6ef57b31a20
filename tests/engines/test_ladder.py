"""The memory ladder: smaller step by step, never another answer."""

from dataclasses import replace
from typing import Any

import pytest

from semievol_ray.config import SPEED_KWARGS
from semievol_ray.core.answers import Labels
from semievol_ray.engines.base import EngineSpec
from semievol_ray.engines.faults import Shortage
from semievol_ray.engines.ladder import rung_below

SPEC = EngineSpec("vllm", "m", "m", None, {}, "bfloat16", 2048, 4, 0, 1, True, Labels(("a", "b")))


def _ladder(
    speed: dict[str, Any], shortage: Shortage = "memory", seen: str = "", **changes: Any
) -> list[dict[str, Any]]:
    """The settings on each rung when the same shortage is met again and again."""
    spec, rungs, settings = replace(SPEC, speed=speed, **changes), list[dict[str, Any]](), dict[str, Any]()
    while below := rung_below(spec, settings, shortage, seen):
        assert len(below) == 1
        settings = settings | below
        rungs.append(settings)
    return rungs


def test_ladder_lowers_requests_then_batches_then_the_share_of_the_device() -> None:
    rungs = _ladder({"max_num_seqs": 512})
    assert [r["max_num_seqs"] for r in rungs[:3]] == [256, 128, 64]
    assert [set(r) - {"max_num_seqs"} for r in rungs[:3]] == [set()] * 3
    assert [r["max_num_batched_tokens"] for r in rungs[3:5]] == [2048, 512]
    assert [r["gpu_memory_utilization"] for r in rungs[5:]] == [0.82, 0.72]


@pytest.mark.parametrize("kind", ["vllm", "transformers", "scripted"])
@pytest.mark.parametrize("shortage", ["memory", "cache"])
def test_ladder_only_changes_speed_and_each_rung_keeps_those_above(kind: Any, shortage: Shortage) -> None:
    before: dict[str, Any] = {}
    for rung in _ladder({"max_num_seqs": 4}, shortage, kind=kind):
        assert set(rung) <= SPEED_KWARGS
        assert set(before) <= set(rung)
        assert rung != before
        before = rung


def test_ladder_gives_a_cache_without_room_more_of_the_device() -> None:
    shares = [r["gpu_memory_utilization"] for r in _ladder({}, "cache") if "gpu_memory_utilization" in r]
    assert set(shares) == {0.96}
    assert _ladder({}, "cache")[0] == {"gpu_memory_utilization": 0.96}  # before anything is made slower


def test_share_that_others_have_is_left_to_them_and_nothing_else_changes() -> None:
    said = "Free memory on device cuda:0 (31.5/79.2 GiB) on startup is less than desired GPU memory utilization (0.92"
    assert _ladder({}, "share", said)[0] == {"gpu_memory_utilization": 0.37}
    assert rung_below(SPEC, {}, "share", said.replace("31.5", "2.0")) is None
    unread = _ladder({"gpu_memory_utilization": 0.5}, "share", "less than desired GPU memory utilization")
    assert [rung["gpu_memory_utilization"] for rung in unread] == [0.4, 0.3, 0.2, 0.1]


def test_shortages_of_two_kinds_go_on_from_where_the_other_came_to() -> None:
    settings: dict[str, Any] = {}
    for shortage in ("cache", "memory", "cache", "memory"):
        settings |= rung_below(SPEC, settings, shortage, "") or {}  # type: ignore[arg-type]
    assert settings == {"gpu_memory_utilization": 0.96, "max_num_seqs": 32}
    lowered = {"gpu_memory_utilization": 0.37}
    assert rung_below(SPEC, lowered, "cache", "") == {"max_num_seqs": 128}  # others have what it would take


def test_ladder_never_makes_batches_smaller_than_vllm_takes() -> None:
    unchunked = _ladder({"max_num_batched_tokens": 4096, "enable_chunked_prefill": False})
    assert all(r["max_num_batched_tokens"] >= 2048 for r in unchunked if "max_num_batched_tokens" in r)
    wide = _ladder({"max_num_seqs": 4096, "max_num_batched_tokens": 4096})
    assert all(r.get("max_num_batched_tokens", 4096) >= r["max_num_seqs"] for r in wide)


def test_ladder_of_an_engine_with_one_request_at_once_has_no_smaller_number_of_them() -> None:
    assert _ladder({"max_num_seqs": 1}, kind="transformers") == []
    assert all(r.get("max_num_seqs", 1) == 1 for r in _ladder({"max_num_seqs": 1}))


def test_ladder_on_a_cpu_leaves_the_share_of_a_gpu_alone() -> None:
    assert not any("gpu_memory_utilization" in r for r in _ladder({}, on_gpu=False))
