"""Who is told what vLLM counts with every step of its engine: we of the prefix cache, Ray's metrics of everything.

Invariant: without a running Ray nothing but our own counts is kept, and an engine never fails for want of a metric.
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from semievol_ray.engines.prefixes import Add


def stat_loggers(add: Add) -> list[Callable[..., Any]]:
    """What vLLM makes its loggers of: `add` hears of the prefix cache; a Ray cluster gets metrics named ray_vllm_*.

    vLLM's own logger for Ray takes the place of the one whose figures only a server of vLLM would show.
    """
    loggers: list[Callable[..., Any]] = [_counting(add)]
    if (ray := sys.modules.get("ray")) and ray.is_initialized():
        with suppress(ImportError):  # another vLLM
            loggers.append(_for_ray())
    return loggers


def _for_ray() -> Callable[..., Any]:
    from vllm.v1.metrics.ray_wrappers import RayPrometheusStatLogger

    class Harmless(RayPrometheusStatLogger):
        def record(self, *args: Any, **kwargs: Any) -> None:
            with suppress(Exception):  # where vLLM calls this, an error ends the engine
                super().record(*args, **kwargs)

    return Harmless


def _counting(add: Add) -> Callable[..., Any]:
    from vllm.v1.metrics.loggers import StatLoggerBase

    class Counting(StatLoggerBase):
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:  # noqa: ARG002
            return None

        def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:  # noqa: ARG002
            if scheduler_stats is not None:
                counted = scheduler_stats.prefix_cache_stats
                add(int(counted.queries), int(counted.hits))

        def log_engine_initialized(self) -> None:
            return None

    return Counting
