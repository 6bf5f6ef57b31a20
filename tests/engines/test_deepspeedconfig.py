"""DeepSpeed's settings: what the configuration asks for, and a user's JSON obeyed or refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from semievol_ray.config import SpeedConfig, TrainConfig
from semievol_ray.engines.deepspeedconfig import deepspeed_config, micro_batch, own_settings
from semievol_ray.errors import ConfigError

TRAIN = TrainConfig(train_batch_size=8, max_grad_norm=1.0)


def _config(own: dict[str, Any] | None = None, dtype: str = "bfloat16", **speed: Any) -> dict[str, Any]:
    given = SpeedConfig(deepspeed="mine.json", **speed)
    return deepspeed_config(TRAIN, given, on_gpu=True, dtype=dtype, own=own)


@pytest.mark.parametrize(
    ("workers", "per_device", "expected"), [(1, 8, (8, 1)), (2, 8, (4, 1)), (2, 3, (2, 2)), (4, 1, (1, 2))]
)
def test_micro_batch_times_accumulation_times_workers_is_the_batch(
    workers: int, per_device: int, expected: tuple[int, int]
) -> None:
    speed = SpeedConfig(num_train_workers=workers, per_device_train_batch_size=per_device)
    assert micro_batch(TRAIN, speed) == expected
    assert expected[0] * expected[1] * workers == TRAIN.train_batch_size


@pytest.mark.parametrize(
    ("offload", "moved"), [("none", set()), ("optimizer", {"optimizer"}), ("all", {"optimizer", "param"})]
)
def test_offload_moves_what_it_names_to_the_cpu(offload: str, moved: set[str]) -> None:
    zero = _config(zero_stage=3, offload=offload)["zero_optimization"]
    assert {part for part in ("optimizer", "param") if f"offload_{part}" in zero} == moved
    assert all(zero[f"offload_{part}"]["device"] == "cpu" for part in moved)


@pytest.mark.parametrize(("dtype", "enabled"), [("float32", set()), ("bfloat16", {"bf16"}), ("float16", {"fp16"})])
def test_dtype_enables_its_own_precision_alone(dtype: str, enabled: set[str]) -> None:
    config = _config(dtype=dtype)
    assert {name for name in ("bf16", "fp16") if config[name]["enabled"]} == enabled


def test_own_settings_that_agree_are_taken_and_the_rest_stays() -> None:
    own = {
        "gradient_clipping": "auto",
        "zero_optimization": {"stage": 3, "stage3_max_live_parameters": 1e8, "offload_optimizer": {"device": "nvme"}},
        "wall_clock_breakdown": True,
    }
    config = _config(own, zero_stage=3, offload="optimizer")
    assert config["wall_clock_breakdown"] is True
    assert config["zero_optimization"]["stage3_max_live_parameters"] == 1e8
    assert config["zero_optimization"]["offload_optimizer"] == {"device": "nvme", "pin_memory": True}
    assert config["gradient_clipping"] == "auto"
    assert config["bf16"] == {"enabled": True}


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ({"zero_optimization": {"stage": 3}}, ("zero_optimization.stage is 3", "speed.zero_stage is 2")),
        ({"train_batch_size": 16}, ("train_batch_size is 16", "train.train_batch_size is 8")),
        ({"gradient_clipping": 0.3}, ("gradient_clipping is 0.3", "train.max_grad_norm is 1.0")),
        ({"fp16": {"enabled": True}}, ("fp16.enabled is True", "numerics.train_dtype gives bfloat16")),
        (
            {"zero_optimization": {"offload_param": {"device": "cpu"}}},
            ("zero_optimization.offload_param.device is 'cpu'", "speed.offload is none"),
        ),
        ({"train_micro_batch_size_per_gpu": 2}, ("is 2 there", "speed.per_device_train_batch_size is 8", "gives 8")),
        ({"scheduler": {"type": "WarmupLR"}}, ("scheduler is {'type': 'WarmupLR'}", "train.lr_scheduler_type")),
        (
            {"zero_optimization": {"zero_quantized_gradients": True, "zenflow": {"topk_ratio": 0.1}}},
            ("zero_optimization.zero_quantized_gradients is True", "zero_optimization.zenflow is {'topk_ratio'"),
        ),
        ({"torch_autocast": {"enabled": True, "dtype": "float16"}}, ("torch_autocast is", "numerics.train_dtype")),
        (
            {"data_types": {"grad_accum_dtype": "fp32"}},
            ("data_types.grad_accum_dtype is 'fp32'", "sums gradients in bf16"),
        ),
        ({"data_types": {"param_dtype": "fp16"}}, ("data_types.param_dtype is 'fp16'", "numerics.train_dtype")),
        ({"tensor_parallel": {"autotp_size": 2}}, ("tensor_parallel is {'autotp_size': 2}", "num_train_workers")),
        ({"zero_optimization": None}, ("zero_optimization.stage is None", "speed.zero_stage is 2")),
        ({"bf16": None}, ("bf16.enabled is None", "numerics.train_dtype gives bfloat16")),
        ({"zero_optimization": {"cpu_offload": True}}, ("zero_optimization.cpu_offload is True", "speed.offload")),
    ],
)
def test_own_settings_in_conflict_are_refused_naming_both_keys_and_values(
    own: dict[str, Any], told: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as refused:
        _config(own)
    assert all(part in str(refused.value) for part in ("mine.json", *told))


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_own_settings_that_are_no_json_object_are_refused_naming_the_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"speed\.deepspeed: .*mine\.json"):
        own_settings(str(path))
    path.write_text(json.dumps({"wall_clock_breakdown": True}), encoding="utf-8")
    assert own_settings(str(path)) == {"wall_clock_breakdown": True}
    assert own_settings(None) == {}


def test_section_that_is_null_takes_no_offload_away() -> None:
    own = {"zero_optimization": {"offload_optimizer": None, "offload_param": None}}
    with pytest.raises(ConfigError, match=r"offload_optimizer\.device is None there, and speed\.offload"):
        _config(own, offload="optimizer")
    assert _config(own)["zero_optimization"] == {"stage": 2}


@pytest.mark.parametrize(
    "own",
    [
        {"fp16": None, "amp": {"enabled": False}, "torch_autocast": {"enabled": False}},
        {"zero_optimization": {"zero_quantized_weights": False, "zero_quantized_gradients": None}},
        {
            "tensor_parallel": {"autotp_size": 1},
            "sequence_parallel_size": 1,
            "data_types": {"grad_accum_dtype": "bf16"},
        },
        {"optimizer": None, "data_types": None},
    ],
)
def test_own_settings_that_say_off_are_no_conflict(own: dict[str, Any]) -> None:
    config = _config(own)
    assert config["fp16"] == {"enabled": False}
    assert "optimizer" not in config


@pytest.mark.parametrize(
    ("dtype", "stage", "each", "summed"),
    [
        ("bfloat16", 2, 4, "fp32"), ("bfloat16", 3, 1, "fp32"), ("bfloat16", 2, 8, None), ("bfloat16", 1, 4, None),
        ("float32", 2, 4, None), ("float16", 2, 4, None),
    ],
)  # fmt: skip
def test_micro_batches_of_bfloat16_are_summed_in_float32_where_deepspeed_can(
    dtype: str, stage: int, each: int, summed: str | None
) -> None:
    config = _config(dtype=dtype, zero_stage=stage, per_device_train_batch_size=each)
    assert config.get("data_types", {}).get("grad_accum_dtype") == summed
