"""Rates without a pilot: from the model's shape, the device's figures and the lengths of some rows.

Invariant: the basis says that nothing was measured; intervals are as wide as such figures deserve.
"""

import os
import time
from collections.abc import Sequence
from itertools import islice
from statistics import fmean
from typing import Any

import numpy as np

from semievol_ray.check import planned_steps
from semievol_ray.config import RunConfig
from semievol_ray.core.planning import Rate, Span
from semievol_ray.core.roofline import GPUS, PREFILL_SHARE, Device, Shape, gpu_named, row_seconds, training_step_seconds
from semievol_ray.core.workload import ANSWERS, EMBEDDED, Splits, kind_of
from semievol_ray.engines.footprint import decoder_config, key_value_size, weight_bytes
from semievol_ray.engines.ladder import default_max_num_seqs
from semievol_ray.engines.models import resolve_model
from semievol_ray.engines.references import local_weights
from semievol_ray.errors import ConfigError
from semievol_ray.placement import Resources, place, place_embedding
from semievol_ray.planning.measured import Measured
from semievol_ray.stages.reading import read_rows

CHARACTERS_A_TOKEN, ROWS_READ, TEMPLATE_TOKENS = 4.0, 200, 24
EMBEDDER_PARAMETERS, SEARCH_SECONDS = 22e6, 3e-4
"""Of all-minilm-l6-v2; of a search among 10,000 rows (benchmarks/results/retrieve-cpu.json)."""
_SIZES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}


def computed(config: RunConfig, splits: Splits, resources: Resources, gpus: Sequence[str]) -> tuple[Measured, str]:
    """Rates by step, and the sentence that says what they rest on; `gpus` are the names of those at hand.

    Raises ConfigError where the model's shape or a GPU is not known.
    """
    device = _device(config, resources, gpus)
    shape = _shape(config, on_gpu=resources.num_gpus > 0)
    lengths = _lengths(config)
    embedding = _embedding_seconds(lengths[0], resources, gpus)
    rates = {step: _rate(step, config, shape, device, embedding, lengths) for step in planned_steps(config)}
    start = _wide(20 + shape.weight_bytes / 1e9 + (60 if resources.num_gpus else 10))
    starts = {f"round-1 {who}": start for who in ("base", "warm")}
    accepted = float(getattr(config.method.select, "theta", 0.5))
    basis = (
        f"arithmetic alone, nothing was measured: {config.model} ({shape.num_parameters / 1e9:.2f} billion parameters) "
        f"on {device.name}, {splits.pool} rows of about {lengths[0]:.0f} tokens"
    )
    return Measured(rates, starts, _wide(20.0), accepted), basis


def _rate(
    step: str, config: RunConfig, shape: Shape, device: Device, embedding: float, lengths: tuple[float, float]
) -> Rate:
    question, answer = lengths
    kind, num_seqs = kind_of(step), _max_num_seqs(config, device)
    if kind in ANSWERS:
        prompt = _prompt_tokens(step, config, question, answer)
        seconds = row_seconds(shape, device, prompt, answer, num_seqs)
        return Rate(seconds=_wide(seconds), prompt_tokens=prompt, tokens=answer, row_bytes=200 + 6 * answer)
    if kind == "train":
        tokens = config.train.train_batch_size * (question + answer + TEMPLATE_TOKENS)
        seconds = training_step_seconds(shape, device, tokens, is_full=config.train.method == "full")
        workers = config.speed.num_train_workers
        return Rate(_wide(45.0), _wide(seconds / workers), fixed_bytes=0.02 * shape.weight_bytes)
    if kind in EMBEDDED:
        return Rate(_wide(8.0), _wide(embedding), row_bytes=150)
    return Rate(_wide(2.0), _wide(2e-5), row_bytes=4 * question)


def _prompt_tokens(step: str, config: RunConfig, question: float, answer: float) -> float:
    """Instruction, demonstrations, question; a justification also sees the drafts' answers."""
    base = len(config.resolve_task().instruction) / CHARACTERS_A_TOKEN + question + TEMPLATE_TOKENS
    if kind_of(step) == "justify":
        return base + len(config.method.collaborators) * 8
    shown = next((c.demonstrations for c in config.method.collaborators if c.name == step.rpartition("/")[2]), 0)
    return min(base + shown * (question + answer), config.numerics.max_model_len)


def _lengths(config: RunConfig) -> tuple[float, float]:
    """Mean tokens of a question, from the first rows of the pool, and of an answer, from the task."""
    task = config.resolve_task()
    rows = list(islice(read_rows(config.data.unlabeled.path, task, needs_answer=False), ROWS_READ))
    questions = [len(row.question) + sum(map(len, row.options or ())) for row in rows]
    written = len(task.render_answer("a word")) / CHARACTERS_A_TOKEN + 2
    return fmean(questions) / CHARACTERS_A_TOKEN, min(
        written, task.max_tokens
    ) if task.is_closed else task.max_tokens / 2


def _shape(config: RunConfig, *, on_gpu: bool) -> Shape:
    folder = local_weights(resolve_model(config.model).path) if config.numerics.engine != "scripted" else ""
    size = weight_bytes(folder, "float32") if folder else None
    if size is None:
        raise _shapeless(config.model)
    try:
        told = decoder_config(folder)
        keys = 2 * told["num_hidden_layers"] * key_value_size(told)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise _shapeless(config.model) from None
    chosen = config.numerics.dtype
    each = _SIZES["bfloat16" if on_gpu else "float32"] if chosen == "auto" else _SIZES[chosen]
    return Shape(size / 4, each, keys * each)


def _shapeless(model: str) -> ConfigError:
    return ConfigError(
        f"--pilot 0 computes from the shape of model {model!r}, and its configuration and its weights' headers tell "
        "none. Run a pilot instead: semievol plan CONFIG --pilot 200."
    )


def _embedding_seconds(question: float, resources: Resources, gpus: Sequence[str]) -> float:
    """Seconds of a row on one embedder: a question's arithmetic, and the search for its demonstrations."""
    device = _gpu(gpus) if resources.num_gpus else _cpu(int(place_embedding(resources, 1).cpus_each))
    return 2 * EMBEDDER_PARAMETERS * question / (device.flops * PREFILL_SHARE) + SEARCH_SECONDS


def _device(config: RunConfig, resources: Resources, gpus: Sequence[str]) -> Device:
    """One engine's device: its GPUs, or its CPUs."""
    if not resources.num_gpus:
        return _cpu(int(place(config.speed, resources).cpus_each))
    one, num = _gpu(gpus), place(config.speed, resources).gpus_each
    name = one.name if num == 1 else f"{num:g} x {one.name}"
    return Device(name, one.flops * num, one.bandwidth * num, one.memory_bytes * num)


def _gpu(names: Sequence[str]) -> Device:
    """The slowest of the GPUs at hand; an H100 where GPUs are only thought of."""
    found = {name: gpu_named(name) for name in names}
    if unknown := [name for name, device in found.items() if device is None]:
        raise ConfigError(f"--pilot 0 knows no figures of {unknown[0]}. Run a pilot instead.")
    return min((device for device in found.values() if device), key=lambda gpu: gpu.flops, default=GPUS["H100"])


def _cpu(num: int) -> Device:
    """CPUs of one node, as fast as this one's, from a matrix product and a copy timed here."""
    a, size = np.ones((768, 768), np.float32), 768
    copied = np.ones(8_000_000, np.float32)
    product = min(_timed(lambda: a @ a) for _ in range(10))
    copy = min(_timed(copied.copy) for _ in range(5))
    cores = os.cpu_count() or 1
    flops, traffic = 2 * size**3 / product, 2 * copied.nbytes / copy
    return Device(f"{num} CPUs like this machine's", flops * num / cores, traffic, 8e9)


def _timed(function: Any) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def _max_num_seqs(config: RunConfig, device: Device) -> int:
    on_gpu = "CPUs" not in device.name
    kind = config.numerics.engine
    return int(config.speed.engine_kwargs.get("max_num_seqs", default_max_num_seqs(kind, on_gpu=on_gpu)))


def _wide(seconds: float) -> Span:
    """A computed time: half of it to two and a half times."""
    return Span(0.5 * seconds, seconds, 2.5 * seconds)
