"""Floating-point operations of a step: PyTorch's own counter, on the model that the count is of."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from semievol_ray.config import TrainConfig
from semievol_ray.engines.flops import peak_flops, step_flops
from semievol_ray.engines.loss import FILLER, TrainingExample, answer_loss, collate
from semievol_ray.engines.memory import num_trainable, shape_of

EXAMPLES = [TrainingExample(tuple(range(5, 69)), 3, 1.0)] * 4


@pytest.mark.parametrize("method", ["lora", "full"])
def test_operations_of_a_step_are_those_that_pytorch_counts(method: Literal["lora", "full"], tiny_llama: Path) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    from semievol_ray.engines.trainable import trainable

    shape = shape_of(str(tiny_llama))
    assert shape is not None
    train = TrainConfig(method=method, lora_r=1)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32, attn_implementation="eager")
    model = trainable(model, train)
    with FlopCounterMode(display=False) as counter:
        answer_loss(model, collate(EXAMPLES, pad=0))[0].backward()
    found = step_flops(shape, num_trainable(shape, train), EXAMPLES)
    # PyTorch's eager attention computes the masked half as well, and rank-1 adapters add their own small products
    whole = found + step_flops(shape, 0, EXAMPLES) - step_flops(replace(shape, num_layers=0), 0, EXAMPLES)
    assert whole == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_examples_that_fill_up_a_step_cost_nothing(tiny_llama: Path) -> None:
    shape = shape_of(str(tiny_llama))
    assert shape is not None
    assert step_flops(shape, 10, [*EXAMPLES, FILLER]) == step_flops(shape, 10, EXAMPLES)


def test_peak_of_a_device_is_known_by_its_name_and_not_guessed() -> None:
    assert peak_flops("NVIDIA H200", "bfloat16") == 989e12
    assert peak_flops("NVIDIA L40S", "float16") == 362e12
    assert peak_flops("NVIDIA H200", "float32") is None
    assert peak_flops("Somebody's GPU", "bfloat16") is None
