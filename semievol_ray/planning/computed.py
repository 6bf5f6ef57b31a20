"""Rates without a pilot: from the model's shape, the device's figures and the lengths of some rows.

Invariant: the basis says that nothing was measured; intervals are as wide as such figures deserve.
"""

import json
import os
import time
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from semievol_ray.check import planned_steps
from semievol_ray.config import RunConfig
from semievol_ray.core.planning import Rate, Span
from semievol_ray.core.roofline import GPUS, Device, Shape, gpu_named, row_seconds, training_step_seconds
from semievol_ray.core.workload import ANSWERS, Splits, kind_of
from semievol_ray.engines.footprint import weight_bytes
from semievol_ray.engines.ladder import default_max_num_seqs
from semievol_ray.engines.models import resolve_model
from semievol_ray.engines.references import local_weights
from semievol_ray.errors import ConfigError
from semievol_ray.machine import look
from semievol_ray.placement import Resources, place
from semievol_ray.planning.measured import Measured
from semievol_ray.stages.reading import read_rows

CHARACTERS_A_TOKEN, ROWS_READ, TEMPLATE_TOKENS = 4.0, 200, 24
EMBEDDER_PARAMETERS = 22e6
_SIZES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}


def computed(config: RunConfig, splits: Splits, resources: Resources) -> tuple[Measured, str]:
    """Rates by step, and the sentence that says what they rest on. Raises ConfigError where the shape is not known."""
    device = _device(config, resources)
    shape = _shape(config, on_gpu=resources.num_gpus > 0)
    lengths = _lengths(config)
    rates = {step: _rate(step, config, shape, device, lengths) for step in planned_steps(config)}
    start = _wide(20 + shape.weight_bytes / 1e9 + (60 if resources.num_gpus else 10))
    starts = {f"round-1 {who}": start for who in ("base", "warm")}
    accepted = float(getattr(config.method.select, "theta", 0.5))
    basis = (
        f"arithmetic alone, nothing was measured: {config.model} ({shape.num_parameters / 1e9:.2f} billion parameters) "
        f"on {device.name}, {splits.pool} rows of about {lengths[0]:.0f} tokens"
    )
    return Measured(rates, starts, _wide(20.0), accepted), basis


def _rate(step: str, config: RunConfig, shape: Shape, device: Device, lengths: tuple[float, float]) -> Rate:
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
    if kind in ("retrieve", "embeddings", "dev_embeddings"):
        seconds = 2 * EMBEDDER_PARAMETERS * question / (_cpu(1).flops * 0.5)
        return Rate(_wide(8.0), _wide(seconds), row_bytes=150)
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
        raise ConfigError(
            f"--pilot 0 computes from the shape of model {config.model!r}, and its weights' headers tell none. Run a "
            "pilot instead: semievol plan CONFIG --pilot 200."
        )
    told: dict[str, Any] = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
    told = {**told, **told.get("text_config", {})}
    chosen = config.numerics.dtype
    each = _SIZES["bfloat16" if on_gpu else "float32"] if chosen == "auto" else _SIZES[chosen]
    heads = told.get("num_attention_heads", 32)
    width = told.get("head_dim") or told.get("hidden_size", 4096) / heads
    keys = 2 * told.get("num_hidden_layers", 32) * (told.get("num_key_value_heads") or heads) * width
    return Shape(size / 4, each, keys * each)


def _device(config: RunConfig, resources: Resources) -> Device:
    """One engine's device: the GPU at hand, an H100 where GPUs are only thought of, else the CPUs of an engine."""
    if not resources.num_gpus:
        return _cpu(int(place(config.speed, resources).cpus_each))
    here = look().gpus
    one = gpu_named(here[0].name) if here else GPUS["H100"]
    if one is None:
        raise ConfigError(f"--pilot 0 knows no figures of {here[0].name}. Run a pilot instead.")
    num = place(config.speed, resources).gpus_each
    name = one.name if num == 1 else f"{num:g} x {one.name}"
    return Device(name, one.flops * num, one.bandwidth * num, one.memory_bytes * num)


def _cpu(num: int) -> Device:
    """The CPUs of one engine, from a matrix product and a copy timed here."""
    a, size = np.ones((768, 768), np.float32), 768
    copied = np.ones(8_000_000, np.float32)
    product = min(_timed(lambda: a @ a) for _ in range(10))
    copy = min(_timed(copied.copy) for _ in range(5))
    cores = os.cpu_count() or 1
    share = min(1.0, num / cores)
    flops, traffic = 2 * size**3 / product, 2 * copied.nbytes / copy
    return Device(f"{num} CPUs of this machine", flops * share, traffic, 8e9)


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
