"""What was saved, read anew: the logits of the process that trained it, or it is refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from semievol_ray.config import TrainConfig
from semievol_ray.engines.adapters import verify_adapter
from semievol_ray.engines.reopening import NUM_TOKENS, logit_shift, store_logits
from semievol_ray.errors import AdapterError

IDS = tuple(range(5, 5 + 2 * NUM_TOKENS))


def _shift(path: Path, model: Path, out: Path, dtype: str = "float32") -> float:
    given: tuple[Any, ...] = (str(path), str(model), str(out), TrainConfig(), dtype)
    return logit_shift(*given, on_gpu=False, packs_on_gpu=False)


def _stored(base: Path, adapter: Path, path: Path, dtype: str = "float32") -> Path:
    """Logits of a base with an adapter, as training left it under DeepSpeed: all of it in one dtype."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
    model = PeftModel.from_pretrained(model, adapter, is_trainable=True, autocast_adapter_dtype=False).train()
    for parameter in model.parameters():
        parameter.data = parameter.data.to(getattr(torch, dtype))
    store_logits(str(path), model, None, None, IDS, device="cpu", first=True)
    assert model.training
    return path


@pytest.fixture
def stored(tiny_llama: Path, tiny_adapters: tuple[Path, Path], tmp_path: Path) -> Path:
    return _stored(tiny_llama, tiny_adapters[0], tmp_path / "logits")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapter_as_it_was_trained_gives_the_logits_that_it_gave(
    dtype: str, tiny_llama: Path, tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    path = _stored(tiny_llama, tiny_adapters[0], tmp_path / "logits", dtype)
    assert _shift(path, tiny_llama, tiny_adapters[0], dtype) < 1e-4


def test_adapter_with_a_permuted_tensor_passes_every_other_check_and_is_refused_with_the_difference(
    stored: Path, tiny_llama: Path, tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    permuted = Path(shutil.copytree(tiny_adapters[0], tmp_path / "permuted"))
    tensors = load_file(permuted / "adapter_model.safetensors")
    name = next(name for name in sorted(tensors) if "lora_B" in name)
    tensors[name] = tensors[name].roll(1, 0).contiguous()
    save_file(tensors, permuted / "adapter_model.safetensors", {"format": "pt"})
    assert verify_adapter(str(permuted)) == verify_adapter(str(tiny_adapters[0]))
    with pytest.raises(
        AdapterError, match=r"permuted: .*the largest difference is [\d.e-]+ of their standard deviation"
    ):
        _shift(stored, tiny_llama, permuted)


def test_whole_model_is_read_in_its_bases_place(tiny_llama: Path, stored: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    store_logits(str(tmp_path / "whole"), model, None, None, IDS, device="cpu", first=True)
    assert _shift(tmp_path / "whole", tmp_path / "no-base", tiny_llama) == 0
    with pytest.raises(AdapterError, match="largest difference"):
        _shift(stored, tmp_path / "no-base", tiny_llama)


def test_worker_that_is_not_the_first_stores_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    store_logits(str(tmp_path / "logits"), model, None, None, IDS, device="cpu", first=False)
    assert not (tmp_path / "logits").exists()
