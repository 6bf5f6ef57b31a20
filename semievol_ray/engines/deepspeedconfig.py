"""DeepSpeed's settings as the configuration means them, with a user's own JSON laid under them; no torch in here.

Invariant: what decides the outcome of a fine-tuning is said by the configuration alone; a JSON that says otherwise is
refused, never half obeyed.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from semievol_ray import storage
from semievol_ray.config import SpeedConfig, TrainConfig
from semievol_ray.errors import ConfigError, StorageError

AUTO = "auto"
_SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_DTYPE, _WHOLE = "numerics.train_dtype", "speed.num_train_workers, each of which holds whole layers"
_ORDER, _QUANTIZED = (
    "the order of the examples, which is the run's seed,",
    "numerics.train_dtype and train.load_in_4bit",
)
DECIDED_ELSEWHERE = {
    "optimizer": "train.learning_rate and train.weight_decay, with AdamW",
    "scheduler": "train.lr_scheduler_type and train.warmup_ratio",
    "data_efficiency": _ORDER,
    "curriculum_learning": _ORDER,
    "compression_training": "train.method",
    "progressive_layer_drop": "train.method",
    "quantize_training": _QUANTIZED,
    "weight_quantization": _QUANTIZED,
    "elasticity": "train.train_batch_size and speed.num_train_workers",
    "amp": _DTYPE,
    "torch_autocast": _DTYPE,
    "bfloat16": _DTYPE,
    "bf16.bf16_master_weights_and_grads": _DTYPE,
    "bf16.bf16_optimizer_states": _DTYPE,
    "fp16.fp16_master_weights_and_grads": _DTYPE,
    "fp16.auto_cast": _DTYPE,
    "data_types.param_dtype": _DTYPE,
    "data_types.buffer_dtype": _DTYPE,
    "data_types.keep_in_fp32_modules": _DTYPE,
    "tensor_parallel": _WHOLE,
    "sequence_parallel_size": _WHOLE,
    "zero_optimization.zero_quantized_weights": _QUANTIZED,
    "zero_optimization.zero_quantized_nontrainable_weights": _QUANTIZED,
    "zero_optimization.zero_quantized_gradients": _DTYPE,
    "zero_optimization.zenflow": "train.learning_rate and train.weight_decay, with AdamW",
    "zero_optimization.cpu_offload": "speed.offload",
    "zero_optimization.cpu_offload_param": "speed.offload",
}
"""Keys of DeepSpeed's that change what is learned, and what says it here."""


@dataclass(frozen=True)
class Decided:
    """One key of DeepSpeed's that the configuration decides: by which of its keys, and the values that agree."""

    key: str
    setting: str
    agreeing: tuple[Any, ...]


def micro_batch(train: TrainConfig, speed: SpeedConfig) -> tuple[int, int]:
    """Examples of a worker at a time, and how often in a step; their product times the workers is the batch."""
    per_worker = train.train_batch_size // speed.num_train_workers
    most = min(speed.per_device_train_batch_size, per_worker)
    micro = max(size for size in range(1, most + 1) if per_worker % size == 0)
    return micro, per_worker // micro


def sums_in_float32(stage: int, *, accumulates: bool, is_bfloat16: bool) -> bool:
    """Whether the gradients of a step's micro-batches are summed in float32 though the model is in bfloat16.

    ZeRO 2 and 3 sum in the model's dtype unless told otherwise, in which a micro-batch's share is lost where it is less
    than 1/256 of the sum; 0 and 1 cannot sum in another (DeepSpeed 0.19.8, engine._do_optimizer_sanity_check).
    """
    return is_bfloat16 and accumulates and stage >= 2


def _dtype_of_sums(train: TrainConfig, speed: SpeedConfig, dtype: str) -> str:
    accumulates = micro_batch(train, speed)[1] > 1
    is_wide = sums_in_float32(speed.zero_stage, accumulates=accumulates, is_bfloat16=dtype == "bfloat16")
    return "fp32" if is_wide else _SHORT[dtype]


def own_settings(path: str | None) -> dict[str, Any]:
    """A user's DeepSpeed JSON; empty without a path. Raises ConfigError when it is no JSON object."""
    if path is None:
        return {}
    try:
        found = json.loads(storage.read(path))
    except (ValueError, StorageError) as error:
        raise ConfigError(
            f"speed.deepspeed: {path} cannot be read as JSON: {error}. Mend the file or leave it out."
        ) from error
    if not isinstance(found, dict):
        raise ConfigError(f"speed.deepspeed: {path} holds no JSON object; DeepSpeed's settings are one.")
    return found


def deepspeed_config(
    train: TrainConfig, speed: SpeedConfig, *, on_gpu: bool, dtype: str, own: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """DeepSpeed's dict; batch sizes and clipping are filled in by the Trainer ("auto").

    `own` is a user's JSON: what the configuration does not decide is taken from it. Raises ConfigError naming both
    keys and values where the two conflict.
    """
    own = own or {}
    refuse_conflicts(own, train, speed, dtype)
    config: dict[str, Any] = {
        "train_batch_size": AUTO,
        "train_micro_batch_size_per_gpu": AUTO,
        "gradient_accumulation_steps": AUTO,
        "gradient_clipping": AUTO,
        "zero_optimization": _zero(speed, on_gpu=on_gpu),
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": dtype == "bfloat16"},
        "fp16": {"enabled": dtype == "float16"},
    }
    if (sums := _dtype_of_sums(train, speed, dtype)) != _SHORT[dtype]:
        config["data_types"] = {"grad_accum_dtype": sums}
    if not on_gpu:
        config["communication_data_type"] = "fp32"
    return _laid_over(config, own)


def refuse_conflicts(own: Mapping[str, Any], train: TrainConfig, speed: SpeedConfig, dtype: str) -> None:
    """Raises ConfigError, naming every key of a user's JSON that says something else than the configuration."""
    wrong = [
        f"{d.key} is {value!r} there, and {d.setting}"
        for d in _decided(train, speed, dtype)
        for value in _said(own, d.key)
        if value != AUTO and value not in d.agreeing
    ]
    wrong += [
        f"{key} is {value!r} there, and {who} decide it"
        for key, who in DECIDED_ELSEWHERE.items()
        for value in _said(own, key)
        if not _is_off(key, value)
    ]
    if wrong:
        raise ConfigError(
            f"speed.deepspeed: {speed.deepspeed} conflicts with the configuration: {'; '.join(wrong)}. "
            'Change one of the two, or leave the key out of the JSON (or "auto").'
        )


def _zero(speed: SpeedConfig, *, on_gpu: bool) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": speed.zero_stage}
    memory = {"device": "cpu", "pin_memory": on_gpu}
    if speed.offload != "none":
        zero["offload_optimizer"] = memory
    if speed.offload == "all":
        zero["offload_param"] = memory
    return zero


def _decided(train: TrainConfig, speed: SpeedConfig, dtype: str) -> Iterator[Decided]:
    micro, accumulated = micro_batch(train, speed)
    batch = f"train.train_batch_size is {train.train_batch_size}"
    sizes = f"{batch} over speed.num_train_workers {speed.num_train_workers}"
    here = f"speed.per_device_train_batch_size is {speed.per_device_train_batch_size}"
    yield Decided("train_batch_size", batch, (train.train_batch_size,))
    yield Decided("train_micro_batch_size_per_gpu", f"{here}, which gives {micro} ({sizes})", (micro,))
    yield Decided("gradient_accumulation_steps", f"{sizes}, {micro} at a time, gives {accumulated}", (accumulated,))
    yield Decided("gradient_clipping", f"train.max_grad_norm is {train.max_grad_norm}", (train.max_grad_norm,))
    stages = (speed.zero_stage,) if speed.zero_stage else (0, None)
    yield Decided("zero_optimization.stage", f"speed.zero_stage is {speed.zero_stage}", stages)
    for part, when in (("optimizer", ("optimizer", "all")), ("param", ("all",))):
        agreeing = ("cpu", "nvme") if speed.offload in when else ("none", None)
        yield Decided(f"zero_optimization.offload_{part}.device", f"speed.offload is {speed.offload}", agreeing)
    for name, meant in (("bf16", "bfloat16"), ("fp16", "float16")):
        values = (True,) if dtype == meant else (False, None)
        yield Decided(f"{name}.enabled", f"numerics.train_dtype gives {dtype}", values)
    sums = _dtype_of_sums(train, speed, dtype)
    yield Decided("data_types.grad_accum_dtype", f"numerics.train_dtype {dtype} sums gradients in {sums}", (sums, None))


def _said(own: Mapping[str, Any], key: str) -> Iterator[Any]:
    """What a JSON says of a dotted key, if anything; where a section of it is no mapping, such as null, that."""
    found: Any = own
    for name in key.split("."):
        if not isinstance(found, Mapping):
            break
        if name not in found:
            return
        found = found[name]
    yield found


def _is_off(key: str, value: Any) -> bool:
    """Whether a value of a key that changes what is learned says that it shall not."""
    if isinstance(value, Mapping):
        if "enabled" in value:
            return not value["enabled"]
        return bool(value) and all(_is_off(name, of) for name, of in value.items())
    return value in (None, False, AUTO) or (key.endswith("_size") and value == 1)


def _laid_over(config: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with a user's values in place of its own, section by section; "auto" and null leave what was there."""
    merged = dict(config)
    for key, value in own.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _laid_over(merged[key], value)
        elif value is not None and (value != AUTO or key not in merged):
            merged[key] = value
    return merged
