"""The arithmetic of a fine-tuning's memory, against DeepSpeed's estimators and against what PyTorch keeps."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from semievol_ray.config import SpeedConfig, TrainConfig
from semievol_ray.engines import fit
from semievol_ray.engines.fit import Sizing, refuse_unfit, shortage
from semievol_ray.engines.loss import TrainingExample, answer_loss, collate
from semievol_ray.engines.memory import (
    ModelShape,
    Plan,
    activations,
    needs,
    num_trainable,
    plan_of,
    remedies,
    shape_of,
    with_examples,
)
from semievol_ray.errors import PlacementError

EIGHT_BILLION = ModelShape(
    num_parameters=8_030_261_248, largest_layer=128256 * 4096, num_layers=32, hidden_size=4096,
    intermediate_size=14336, key_value_size=1024, vocab_size=128256, linear=(),
)  # fmt: skip
GB = 10**9


def _plan(**changes: Any) -> Plan:
    full = Plan(
        num_trainable=EIGHT_BILLION.num_parameters, num_bytes=2, num_workers=1, stage=2, offload="none",
        checkpointing=False, micro_batch=8, width=8 * 512, num_kept=32,
    )  # fmt: skip
    return replace(full, **changes)


@pytest.mark.parametrize("workers", [1, 4, 8])
def test_states_with_stage_two_are_those_of_deepspeeds_estimator(workers: int) -> None:
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs as estimate

    _, gpu = estimate(EIGHT_BILLION.num_parameters, num_gpus_per_node=workers, cpu_offload=False)
    assert needs(EIGHT_BILLION, _plan(num_workers=workers)).states == pytest.approx(gpu, rel=1e-6)
    host, gpu = estimate(EIGHT_BILLION.num_parameters, cpu_offload=True, additional_buffer_factor=1.0)
    found = needs(EIGHT_BILLION, _plan(offload="optimizer"))
    assert (found.states, found.host) == pytest.approx((gpu, host), rel=1e-6)


@pytest.mark.parametrize("workers", [1, 4, 8])
def test_states_with_stage_three_are_near_those_of_deepspeeds_estimator(workers: int) -> None:
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as estimate

    shape = EIGHT_BILLION
    of_model = (shape.num_parameters, shape.largest_layer)
    _, gpu, _ = estimate(*of_model, num_gpus_per_node=workers, cpu_offload=False)
    assert needs(shape, _plan(stage=3, num_workers=workers)).states == pytest.approx(gpu, rel=0.12)
    host, gpu, _ = estimate(*of_model, additional_buffer_factor=1.0)
    found = needs(shape, _plan(stage=3, offload="all"))
    assert (found.states, found.host) == pytest.approx((gpu, host), rel=1e-6)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_shape_and_trainable_parameters_are_those_of_the_model(
    method: Literal["lora", "full"], tiny_llama: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from semievol_ray.engines.trainable import trainable

    train = TrainConfig(method=method, lora_r=4, target_modules=("q_proj", "down_proj"))
    shape = shape_of(str(tiny_llama))
    assert shape is not None
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    assert shape.num_parameters == sum(p.numel() for p in base.parameters())
    learned = sum(p.numel() for p in trainable(base, train).parameters() if p.requires_grad)
    assert num_trainable(shape, train) == learned
    every = TrainConfig(lora_r=4)
    assert num_trainable(shape, every) > num_trainable(shape, replace_targets(every))


def replace_targets(train: TrainConfig) -> TrainConfig:
    return train.model_copy(update={"target_modules": r".*\.0\..*q_proj"})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_what_pytorch_keeps_for_the_backward_pass(dtype: str, checkpointing: bool) -> None:
    few, many = (_kept_bytes(dtype, layers, checkpointing) for layers in (2, 6))
    shapes = [_shape(layers) for layers in (2, 6)]
    plan = plan_of(
        shapes[0],
        TrainConfig(method="full", train_batch_size=4),
        SpeedConfig(gradient_checkpointing=checkpointing),
        dtype,
    )
    plan = with_examples(plan, [(64, 2)] * 4)
    expected = activations(shapes[1], plan) - activations(shapes[0], plan)
    assert many - few == pytest.approx(expected, rel=0.1)


def _shape(layers: int) -> ModelShape:
    return ModelShape(0, 0, layers, 64, 128, 32, 500, ())


def _kept_bytes(dtype: str, layers: int, checkpointing: bool) -> int:
    """Bytes of the tensors, parameters left out, that a forward pass over 4 x 64 tokens keeps."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=500, use_cache=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(getattr(torch, dtype)).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        answer_loss(model, collate([TrainingExample(tuple(range(64)), 2, 1.0)] * 4, pad=0))
    return sum(storage.nbytes() for storage in kept.values())


def test_fine_tuning_that_does_not_fit_is_told_with_the_sum_and_what_would_fit() -> None:
    lora = _plan(num_trainable=40_000_000)
    assert shortage(Sizing(EIGHT_BILLION, lora, True), 80 * GB) is None
    told = shortage(Sizing(EIGHT_BILLION, lora, True), 24 * GB)
    assert told is not None
    assert "weights 16.06 GB + gradients 0.08 GB + optimizer 0.64 GB + activations" in told
    assert "up to 4,096 tokens of 8 examples at a time" in told
    assert "What would fit: speed.per_device_train_batch_size: 1" in told
    assert "; or speed.gradient_checkpointing: true" in told
    full = shortage(Sizing(EIGHT_BILLION, _plan(), True), 24 * GB)
    assert full is not None
    assert "What would fit: speed.offload: optimizer, speed.gradient_checkpointing: true" in full
    assert ", and 128.48 GB of the machine's)" in full
    nothing = shortage(Sizing(EIGHT_BILLION, _plan(), False), 24 * GB)
    assert nothing is not None
    assert nothing.endswith("use train.method: lora, a smaller model, or more memory.")


@pytest.mark.parametrize(("workers", "limit"), [(1, 24), (1, 60), (4, 40), (8, 24)])
def test_settings_that_are_proposed_would_fit(workers: int, limit: int) -> None:
    plan = _plan(num_workers=workers, num_trainable=40_000_000)
    ways = remedies(EIGHT_BILLION, plan, limit * GB, on_gpu=True)
    assert 1 <= len(ways) <= 3
    for way in ways:
        assert float(way.rpartition("(")[2].split(" GB")[0]) <= limit


def test_longest_micro_batch_is_padded_to_its_longest_or_packed_end_to_end() -> None:
    lengths = [(10, 1), (100, 2), (50, 9), (20, 3)]
    padded = with_examples(_plan(micro_batch=2), lengths)
    packed = with_examples(_plan(micro_batch=2, packed=True), lengths)
    assert (padded.width, padded.num_kept) == (200, 20)
    assert (packed.width, packed.num_kept) == (150, 12)


def test_offload_on_a_cpu_saves_nothing() -> None:
    least = _plan(num_trainable=10**9, checkpointing=True, micro_batch=1, width=512)
    for offload, on_gpu, fits in (("none", True, False), ("optimizer", True, True), ("optimizer", False, False)):
        told = shortage(Sizing(EIGHT_BILLION, replace(least, offload=offload), on_gpu), 30 * GB)
        assert (told is None) == fits


def test_worker_whose_share_of_the_machine_is_too_small_refuses_before_it_loads_the_model(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = [TrainingExample(tuple(range(64)), 2, 1.0)] * 4
    given = (str(tiny_llama), TrainConfig(method="full"), SpeedConfig(), "float32", examples)
    found = refuse_unfit(*given, on_gpu=False)
    assert found is not None
    monkeypatch.setattr(fit.machine, "free_memory", lambda: int(found.needed / 0.9))
    assert refuse_unfit(*given, on_gpu=False) == found
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(PlacementError, match=r"a worker needs .* and has .*GB, of which 95% is used"):
        refuse_unfit(*given, on_gpu=False)


def test_what_learns_and_what_it_takes_is_told_before_the_start(tiny_llama: Path, tmp_path: Path) -> None:
    full = fit.reckoned(str(tiny_llama), TrainConfig(method="full"), SpeedConfig(), "float32", on_gpu=False)
    assert full is not None
    assert full.startswith("42,656 of 42,656 parameters learn (100.0%); a worker needs 0.00 GB (weights 0.00 GB + ")
    assert "activations" not in full  # no example is read yet
    assert fit.reckoned(str(tmp_path), TrainConfig(), SpeedConfig(), "float32", on_gpu=False) is None


def test_shape_of_a_folder_that_tells_none_is_unknown(tmp_path: Path) -> None:
    assert shape_of(str(tmp_path)) is None
    (tmp_path / "config.json").write_text('{"num_attention_heads": 4}')
    assert shape_of(str(tmp_path)) is None


def test_sums_of_micro_batches_in_float32_are_counted() -> None:
    once = _plan(num_trainable=10**9, stage=2, is_bfloat16=True)
    assert needs(EIGHT_BILLION, replace(once, accumulates=True)).gradients == 4 * 10**9
    assert needs(EIGHT_BILLION, once).gradients == 2 * 10**9
    assert needs(EIGHT_BILLION, replace(once, accumulates=True, stage=1)).gradients == 2 * 10**9
