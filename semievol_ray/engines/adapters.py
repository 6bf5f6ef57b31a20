"""What a fine-tuning saved, on disk: re-opening and checking it, its digest, and merging an adapter into its base.

Invariant: nothing serves or trains on an adapter, or a fine-tuned whole model, that `verify_adapter` has not passed.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from semievol_ray import folders, storage
from semievol_ray.engines.references import local_weights
from semievol_ray.engines.weights import check_weights, file_sha256, model_files
from semievol_ray.errors import AdapterError, ModelError, StorageError

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
MODEL_CONFIG = "config.json"
_ALL_ZERO = "is all zero"
LARGEST_RANK = 512
"""vLLM's largest max_lora_rank (MaxLoRARanks of vllm/config/lora.py)."""


def is_whole_model(folder: str) -> bool:
    """Whether a fine-tuning saved all weights (train.method full) rather than an adapter."""
    return storage.exists(f"{folder}/{MODEL_CONFIG}") and not storage.exists(f"{folder}/{CONFIG}")


def verify_adapter(folder: str) -> dict[str, int]:
    """Re-open a saved adapter, or whole model, and check every tensor; returns its numbers of tensors and parameters.

    Raises AdapterError when a file is missing or a tensor is empty, non-finite, all zero or not of rank r. The B of
    some layers may be all zero, for nothing passed through them: `num_unlearned` of them, which `unlearned` names.
    """
    if is_whole_model(folder):
        return _verify_model(local_weights(folder))
    rank, shapes, zero = _rank(folder), {}, list[str]()
    for name, tensor in _tensors(folder):
        shapes[name] = tensor.shape
        if (fault := _fault(name, tensor, rank)) == _ALL_ZERO and "lora_B" in name:
            zero.append(name)
        elif fault:
            raise AdapterError(_unusable(folder, name, tensor.shape, fault))
    if not shapes:
        raise AdapterError(f"{folder}: the saved adapter holds no tensor")
    if zero and len(zero) == sum("lora_B" in name for name in shapes):
        raise AdapterError(_unusable(folder, zero[0], shapes[zero[0]], _ALL_ZERO))
    counts = {"num_tensors": len(shapes), "num_parameters": sum(math.prod(shape) for shape in shapes.values())}
    return counts | ({"num_unlearned": len(zero)} if zero else {})


def unlearned(folder: str) -> list[str]:
    """Layers of a saved adapter whose B is all zero, as if there were none."""
    return [name.partition(".lora_B")[0] for name, tensor in _tensors(folder) if "lora_B" in name and not tensor.any()]


def _rank(folder: str) -> int:
    try:
        return int(json.loads(storage.read(f"{folder}/{CONFIG}"))["r"])
    except (ValueError, KeyError, TypeError, StorageError) as error:
        raise AdapterError(f"{folder}: the saved adapter cannot be re-opened: {error}") from error


def _tensors(folder: str) -> Iterator[tuple[str, Any]]:
    """Names and arrays of a saved adapter, one after another; of kinds that numpy has not, such as bfloat16, float32.

    Raises AdapterError when its file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        path = f"{folders.local_copy(folder)}/{WEIGHTS}"
        with safe_open(path, framework="np") as file:
            names = sorted(file.keys())
            is_numpys = {file.get_slice(name).get_dtype() for name in names} <= {"F64", "F32", "F16"}
        with safe_open(path, framework="np" if is_numpys else "pt") as file:
            for name in names:
                tensor = file.get_tensor(name)
                yield name, tensor if is_numpys else tensor.float().numpy()
    except (OSError, ValueError, SafetensorError, StorageError) as error:
        raise AdapterError(f"{folder}: the saved adapter cannot be re-opened: {error}") from error


def _verify_model(folder: str) -> dict[str, int]:
    """Every file that the index names is there, and every tensor has finite values."""
    import torch
    from safetensors import SafetensorError, safe_open

    sizes = []
    try:
        check_weights(Path(folder))
        for file in (name for name in model_files(Path(folder)) if name.endswith(".safetensors")):
            with safe_open(f"{folder}/{file}", framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a mapping
                    tensor = tensors.get_tensor(name)
                    if tensor.numel() == 0 or not torch.isfinite(tensor).all():
                        fault = "is not finite" if tensor.numel() else "is empty"
                        raise AdapterError(f"{folder}: tensor {name} {fault}; the fine-tuned model is not usable")
                    sizes.append(tensor.numel())
    except (OSError, ModelError, SafetensorError) as error:
        raise AdapterError(f"{folder}: the fine-tuned model cannot be re-opened: {error}") from error
    return {"num_tensors": len(sizes), "num_parameters": sum(sizes)}


def _fault(name: str, tensor: Any, rank: int) -> str | None:
    import numpy as np

    if tensor.size == 0:
        return "is empty"
    if not np.isfinite(tensor).all():
        return "is not finite"
    side = 0 if "lora_A" in name else 1 if "lora_B" in name else None
    if side is not None and tensor.shape[side] != rank:
        return f"is not of rank {rank}"
    return None if tensor.any() else _ALL_ZERO


def _unusable(folder: str, name: str, shape: Sequence[int], fault: str) -> str:
    return f"{folder}: tensor {name} of shape {tuple(shape)} {fault}; the adapter is not usable"


def adapter_digest(folder: str) -> str:
    """sha256 over the weights and the configuration of an adapter folder, or over every file of a whole model's."""
    if is_whole_model(folder):
        here = Path(local_weights(folder))
        return storage.digest(json.dumps([[name, file_sha256(here / name)] for name in model_files(here)]).encode())
    parts = [storage.digest(storage.read(f"{folder}/{name}")) for name in (CONFIG, WEIGHTS)]
    return storage.digest("".join(parts).encode())


def adapter_rank(folder: str) -> int:
    """r of an adapter folder. Raises AdapterError when its configuration cannot be read."""
    try:
        return int(json.loads(storage.read(f"{folder}/{CONFIG}"))["r"])
    except (ValueError, KeyError, StorageError) as error:
        raise AdapterError(f"{folder}: the adapter's configuration cannot be read: {error}") from error


def adapter_settings(folder: str) -> dict[str, Any] | None:
    """An adapter folder's configuration; None where there is none that can be read."""
    try:
        found = json.loads(storage.read(f"{folder}/{CONFIG}"))
    except (StorageError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def only_merged(settings: Mapping[str, Any]) -> str | None:
    """What of an adapter's configuration cannot be served dynamically: rank, use_dora, modules_to_save; else None."""
    if settings.get("use_dora"):
        return "use_dora"
    if isinstance(rank := settings.get("r"), int) and rank > LARGEST_RANK:
        return f"rank {rank}, above vLLM's largest, {LARGEST_RANK}"
    return f"modules_to_save {', '.join(settings['modules_to_save'])}" if settings.get("modules_to_save") else None


def merge(model_path: str, adapter: str, dtype: str, out: str) -> None:
    """Write base + adapter as one model folder: W + (alpha/r) B A computed in float32, then cast to `dtype`."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(
        model_path, dtype=torch.float32, local_files_only=True, trust_remote_code=False
    )
    merged = PeftModel.from_pretrained(base, adapter, torch_dtype=torch.float32).merge_and_unload(safe_merge=True)
    merged.to(getattr(torch, dtype)).save_pretrained(out)
    AutoTokenizer.from_pretrained(model_path, local_files_only=True).save_pretrained(out)
