"""How much memory a model's weights and cached tokens take, from its configuration and its safetensors' headers.

Invariant: no tensor is read, and what cannot be known is None, never a guess.
"""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_CAST = frozenset({"F64", "F32", "F16", "BF16"})
_CACHES_OTHERWISE = ("sliding_window", "kv_lora_rank", "ssm_cfg", "mamba_d_state", "linear_num_value_heads")
_FULL = frozenset({"full_attention", "attention"})
_LONGEST_HEADER = 100_000_000


def weight_bytes(folder: str, dtype: str, quantization: str | None = None) -> int | None:
    """Bytes of a model folder's weights once loaded in `dtype`; tensors that are quantized in the file keep their size.

    None for weights that are quantized while loading, another dtype, or files that are no safetensors.
    """
    path, each = Path(folder), _BYTES.get(dtype)
    try:
        packed = "quantization_config" in json.loads((path / "config.json").read_bytes())
        if each is None or (quantization and not packed):
            return None
        headers = [_header(path / name) for name in _weight_files(path)]
        return sum(_size(tensor, each) for header in headers for tensor in header.values()) or None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return None


def tensor_shapes(folder: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of a model folder; empty where its files are no safetensors."""
    path = Path(folder)
    try:
        headers = [_header(path / name) for name in _weight_files(path)]
        return {name: tuple(tensor["shape"]) for header in headers for name, tensor in header.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return {}


def cache_bytes_a_token(folder: str, dtype: str) -> int | None:
    """Bytes of keys and values that one token takes in every layer together.

    None for another dtype, and for models that cache otherwise than every layer every token: windows, states, latents.
    """
    try:
        config = decoder_config(folder)
        if any(config.get(key) for key in _CACHES_OTHERWISE) or set(config.get("layer_types") or ()) - _FULL:
            return None
        return 2 * int(config["num_hidden_layers"]) * key_value_size(config) * _BYTES[dtype]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def decoder_config(folder: str) -> dict[str, Any]:
    """What a model folder's config.json tells of its language model, also where that stands beside other towers.

    Raises OSError, ValueError, TypeError or AttributeError where there is no such file or it tells none.
    """
    whole: dict[str, Any] = json.loads((Path(folder) / "config.json").read_bytes())
    return {**whole, **(whole.get("text_config") or {})}


def key_value_size(config: Mapping[str, Any]) -> int:
    """Numbers of a token's keys in one layer: key-value heads x head size. Raises KeyError where it is not told."""
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    return int(width) * int(config.get("num_key_value_heads") or heads)


def _weight_files(path: Path) -> list[str]:
    """The files that an index names; without one those that transformers would read, else all."""
    if indices := sorted(path.glob("*.safetensors.index.json")):
        return sorted(set(json.loads(indices[0].read_bytes())["weight_map"].values()))
    names = sorted(entry.name for entry in path.glob("*.safetensors"))
    return ["model.safetensors"] if "model.safetensors" in names else names


def _header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > _LONGEST_HEADER:
            raise ValueError(f"a header of {length} bytes")
        header: dict[str, Any] = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header


def _size(tensor: dict[str, Any], each: int) -> int:
    first, last = tensor["data_offsets"]
    return math.prod(tensor["shape"]) * each if tensor["dtype"] in _CAST else int(last - first)
