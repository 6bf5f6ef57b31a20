"""Bytes of weights as the headers of real safetensors files tell them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from semievol_ray.engines.footprint import cache_bytes_a_token, weight_bytes


def model(folder: Path, tensors: dict[str, torch.Tensor], file: str = "model.safetensors", **config: object) -> str:
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / file)
    return str(folder)


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2), ("float16", 2)])
def test_weights_are_counted_in_the_dtype_they_are_served_in(tmp_path: Path, dtype: str, size: int) -> None:
    path = model(tmp_path, {"a": torch.zeros(10, 3, dtype=torch.bfloat16), "b": torch.zeros(5)})

    assert weight_bytes(path, dtype) == 35 * size


def test_tensors_quantized_in_the_file_keep_their_size(tmp_path: Path) -> None:
    packed = {"packed": torch.zeros(8, dtype=torch.int32), "scale": torch.zeros(4)}

    assert weight_bytes(model(tmp_path, packed, quantization_config={}), "bfloat16", "gptq") == 8 * 4 + 4 * 2


def test_weights_quantized_while_loading_are_not_guessed(tmp_path: Path) -> None:
    assert weight_bytes(model(tmp_path, {"a": torch.zeros(8)}), "bfloat16", "fp8") is None


def test_only_the_files_that_an_index_names_count(tmp_path: Path) -> None:
    model(tmp_path, {"a": torch.zeros(8)}, "consolidated.safetensors")
    path = model(tmp_path, {"a": torch.zeros(8)}, "model-00001-of-00001.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))

    assert weight_bytes(path, "float32") == 32


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 8, b"\x02\x00\x00\x00\x00\x00\x00\x00{}", b"\x08" + b"\0" * 7 + b"nonsense"]
)
def test_damaged_or_empty_file_has_no_size(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(content)

    assert weight_bytes(str(tmp_path), "float32") is None
    assert weight_bytes(str(tmp_path / "no folder"), "float32") is None


def test_a_language_model_beside_other_towers_tells_its_own_shape(tmp_path: Path) -> None:
    text = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 16}
    vision = {"num_hidden_layers": 9, "num_attention_heads": 9, "hidden_size": 9}
    path = model(tmp_path, {"a": torch.zeros(8)}, text_config=text, vision_config=vision)

    assert cache_bytes_a_token(path, "bfloat16") == 2 * 3 * 2 * 4 * 2

    path = model(tmp_path, {"a": torch.zeros(8)}, text_config={**text, "sliding_window": 512})

    assert cache_bytes_a_token(path, "bfloat16") is None
