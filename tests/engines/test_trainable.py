"""What learns: module names are checked against the model, methods against what is installed."""

from collections.abc import Sequence
from typing import Any

import pytest

from semievol_ray.config import TrainConfig
from semievol_ray.engines.trainable import load_base, refuse_unknown, trainable
from semievol_ray.errors import ConfigError, MissingExtraError

NAMES = ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj", "lm_head")


@pytest.mark.parametrize(
    "targets", ["all-linear", ("q_proj", "up_proj"), ("mlp.up_proj",), r".*\.(q|up)_proj", ("lm_head",)]
)
def test_target_modules_that_exist_are_taken(targets: str | Sequence[str]) -> None:
    refuse_unknown(targets, NAMES)


@pytest.mark.parametrize(
    ("targets", "missing"),
    [(("q_proj", "query"), "query"), ("q_proj", "q_proj"), (("_proj",), "_proj"), (r".*\.v_proj", r"\.v_proj")],
)
def test_target_modules_that_do_not_exist_are_refused_naming_those_that_do(
    targets: str | Sequence[str], missing: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        refuse_unknown(targets, NAMES)
    assert missing in str(refused.value).partition("Its layers")[0]
    assert "Its layers are lm_head, q_proj, up_proj." in str(refused.value)


def test_four_bits_without_bitsandbytes_are_refused_with_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semievol_ray.engines.trainable.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"train\.load_in_4bit .* pip install bitsandbytes"):
        load_base("nowhere", TrainConfig(load_in_4bit=True), "float32", packs_on_gpu=False)


@pytest.fixture
def seeing() -> Any:
    """A random Gemma 3 of text and images, as AutoModelForCausalLM gives it."""
    from transformers import AutoModelForCausalLM, Gemma3Config

    text = {"vocab_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    image = {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    config = Gemma3Config(text_config={**text, **size}, vision_config={**image, **size}, mm_tokens_per_image=4)
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "up_proj")])
def test_adapter_of_a_model_that_sees_lies_around_the_layers_that_text_passes_through(
    targets: str | tuple[str, ...], seeing: Any
) -> None:
    import torch

    model = trainable(seeing, TrainConfig(lora_r=2, target_modules=targets))
    model(input_ids=torch.arange(5, 20)[None]).logits.sum().backward()
    halves = [p for name, p in model.named_parameters() if "lora_B" in name]
    assert len(halves) == (7 if targets == "all-linear" else 2)
    assert all(half.grad is not None and half.grad.any() for half in halves)


def test_layer_of_an_image_tower_alone_is_refused_as_a_target(seeing: Any) -> None:
    with pytest.raises(ConfigError, match="the model has no fc1"):
        trainable(seeing, TrainConfig(target_modules=("q_proj", "fc1")))
