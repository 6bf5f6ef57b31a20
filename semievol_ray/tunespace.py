"""Where `semievol tune` looks: which settings a cluster allows, and a climb from one to its neighbours.

Invariant: nothing is measured here, and every setting is speed alone: no answer changes with it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from semievol_ray.config import RunConfig, SpeedConfig
from semievol_ray.engines.ladder import DEFAULT_UTILIZATION, default_max_num_seqs
from semievol_ray.engines.vllm import cpu_cache_bytes
from semievol_ray.placement import Resources, place
from semievol_ray.stages.cutter import SMALLEST_PART, part_rows

Settings = Mapping[str, Any]
LEAST_GAIN = 1.03
"""A setting is better from this factor on; less is noise."""

CPU_ROWS, GPU_ROWS = 64, 512
CPU_ROWS_AN_ENGINE, NUM_FILLS = 8, 6
"""Rows of a sample: a node's without GPUs, the fewest with them; an engine's, in times its requests at once."""


@dataclass(frozen=True)
class Dimension:
    """One thing to vary: its choices from the least to the most, each the settings that it sets."""

    name: str
    choices: tuple[Settings, ...]


@dataclass(frozen=True)
class Trial:
    """One measured setting; `rows_per_second` is None where it did not work, for the reason in `note`."""

    settings: Settings
    rows_per_second: float | None
    tokens_per_second: float = 0.0
    start_seconds: float = 0.0
    seconds: float = 0.0
    note: str = ""


def dimensions(config: RunConfig, resources: Resources) -> list[Dimension]:
    """What can be varied here, what matters most first."""
    on_gpu, vllm = resources.num_gpus > 0, config.numerics.engine == "vllm"
    found = [Dimension("layout", _gpu_layouts(config, resources) if on_gpu else _cpu_layouts(resources))]
    found.append(_powers("max_num_seqs", *((32, 1024) if on_gpu else (8, 256))))
    if vllm:
        found.append(_powers("max_num_batched_tokens", *((2048, 32_768) if on_gpu else (512, 8192))))
        found.append(_shares() if on_gpu else _powers("kv_cache_memory_bytes", 2**30, _largest_cache(resources)))
    return [dimension for dimension in found if len(dimension.choices) > 1]


def rows_wanted(config: RunConfig, resources: Resources) -> int:
    """Rows of the sample: enough that of the layout with the most engines each is filled several times.

    With fewer the engines stand idle, and fewer engines of more GPUs each look as fast.
    """
    kwargs, on_gpu = config.speed.engine_kwargs, resources.num_gpus > 0
    layouts = _gpu_layouts(config, resources) if on_gpu else _cpu_layouts(resources)
    num: int = max([place(config.speed, resources).num, *(choice["num_replicas"] for choice in layouts)])
    if not on_gpu:  # whose rows take seconds
        return max(CPU_ROWS * len(resources.nodes), CPU_ROWS_AN_ENGINE * num)
    seqs = int(kwargs.get("max_num_seqs", default_max_num_seqs(config.numerics.engine, on_gpu=on_gpu)))
    return max(GPU_ROWS, -(-NUM_FILLS * seqs // len(config.method.collaborators)) * num)


def part_rows_of(config: RunConfig) -> int:
    """Rows of a part of the sample: few, so that each engine has parts enough."""
    return min(SMALLEST_PART, part_rows(config.speed.part_rows, 0))


def beginning(config: RunConfig, resources: Resources, varied: Sequence[Dimension]) -> dict[str, Any]:
    """The settings that the configuration has now, of those that are varied."""
    on_gpu, kwargs = resources.num_gpus > 0, config.speed.engine_kwargs
    now = {
        "num_replicas": place(config.speed, resources).num,
        "tensor_parallel_size": 1,
        "max_num_seqs": default_max_num_seqs(config.numerics.engine, on_gpu=on_gpu),
        "max_num_batched_tokens": 8192 if on_gpu else 2048,
        "gpu_memory_utilization": DEFAULT_UTILIZATION,
        "kv_cache_memory_bytes": cpu_cache_bytes(),
    } | kwargs
    names = {name for dimension in varied for choice in dimension.choices for name in choice}
    return {name: now[name] for name in now if name in names or name == "num_replicas"}


def search(
    varied: Sequence[Dimension],
    start: Settings,
    measure: Callable[[Settings], Trial],
    has_time: Callable[[Sequence[Trial]], bool],
) -> Iterator[Trial]:
    """Trials as they are measured: the start, then along each dimension as far as it gets better."""
    trials = [measure(start)]
    yield trials[-1]
    for dimension in varied:
        for step in (1, -1):
            before = best_of(trials)
            for settings in _along(dimension, (before or trials[0]).settings, step):
                if any(trial.settings == settings for trial in trials):
                    continue
                if not has_time(trials):
                    return
                standing = best_of(trials)
                trials.append(measure(settings))
                yield trials[-1]
                if standing and not _is_better(trials[-1], standing):
                    break
            if before is not best_of(trials):
                break  # it got better this way, so it does not the other


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The fastest, an earlier one unless a later is better by LEAST_GAIN; None where nothing worked."""
    best: Trial | None = None
    for trial in trials:
        if trial.rows_per_second is not None and (best is None or _is_better(trial, best)):
            best = trial
    return best


def speed_with(speed: SpeedConfig, settings: Settings) -> SpeedConfig:
    """Speed settings with others laid over; what is vLLM's own default is left out."""
    own = {name: value for name, value in settings.items() if name != "num_replicas"}
    if own.get("tensor_parallel_size") == 1 and "tensor_parallel_size" not in speed.engine_kwargs:
        del own["tensor_parallel_size"]
    changed = {"num_replicas": settings["num_replicas"], "engine_kwargs": {**speed.engine_kwargs, **own}}
    return speed.model_copy(update=changed)


def _is_better(trial: Trial, than: Trial) -> bool:
    return (trial.rows_per_second or 0.0) > LEAST_GAIN * (than.rows_per_second or 0.0)


def _along(dimension: Dimension, settings: Settings, step: int) -> Iterator[dict[str, Any]]:
    """The settings with this dimension's choices beyond the present one, in one direction; none that vLLM refuses."""
    at = _position(dimension, settings)
    beyond = dimension.choices[at + 1 :] if step > 0 else dimension.choices[:at][::-1]
    for choice in beyond:
        changed = {**settings, **choice}
        if changed.get("max_num_batched_tokens", 2**62) >= changed.get("max_num_seqs", 0):
            yield changed


def _position(dimension: Dimension, settings: Settings) -> int:
    """The choice that the settings have, or the last that is not above theirs."""
    for i, choice in enumerate(dimension.choices):
        if all(settings.get(name) == value for name, value in choice.items()):
            return i
    below = [i for i, c in enumerate(dimension.choices) if all(v <= settings.get(n, v) for n, v in c.items())]
    return max(below, default=0)


def _powers(name: str, least: int, most: int) -> Dimension:
    values = [least]
    while values[-1] * 2 <= most:
        values.append(values[-1] * 2)
    return Dimension(name, tuple({name: value} for value in values))


def _shares() -> Dimension:
    return Dimension("memory", tuple({"gpu_memory_utilization": share} for share in (0.8, 0.86, 0.92, 0.95)))


def _gpu_layouts(config: RunConfig, resources: Resources) -> tuple[Settings, ...]:
    """Tensor-parallel sizes of which a node has the GPUs, each with as many replicas as fit."""
    pipeline = int(config.speed.engine_kwargs.get("pipeline_parallel_size", 1))
    largest = max(node.num_gpus for node in resources.nodes) / pipeline
    sizes = [2**power for power in range(7) if 2**power <= largest]
    fits = {size: resources.num_places(1.0, float(size * pipeline)) for size in sizes}
    return tuple({"tensor_parallel_size": size, "num_replicas": num} for size, num in fits.items() if num)


def _cpu_layouts(resources: Resources) -> tuple[Settings, ...]:
    """One engine for the whole cluster, two, four, as far as each has a CPU of its own."""
    most = int(sum(node.num_cpus for node in resources.nodes))
    return tuple({"num_replicas": 2**power} for power in range(11) if 2**power <= max(1, most))


def _largest_cache(resources: Resources) -> int:
    """Half of the smallest machine's memory, where it is known."""
    known = [node.memory_bytes for node in resources.nodes if node.memory_bytes]
    return max(2**30, min(known, default=8 * 2**30) // 2)
