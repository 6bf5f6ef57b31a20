"""Saved adapters: which are refused, and that merging one changes nothing but where its weights lie."""

import json
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from semievol_ray.engines.adapters import adapter_digest, merge, unlearned, verify_adapter
from semievol_ray.errors import AdapterError

Tensors = dict[str, NDArray[np.float32]]


def _good() -> Tensors:
    numbers = np.random.default_rng(0)
    shapes = {"layer.lora_A.weight": (4, 8), "layer.lora_B.weight": (6, 4)}
    return {name: numbers.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def _save(folder: Path, tensors: Tensors) -> str:
    from safetensors.numpy import save_file

    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    return str(folder)


def _with(name: str, tensor: NDArray[np.float32]) -> Tensors:
    return {**_good(), name: tensor}


def test_verify_adapter_of_a_sound_one_counts_tensors_and_parameters(tmp_path: Path) -> None:
    assert verify_adapter(_save(tmp_path, _good())) == {"num_tensors": 2, "num_parameters": 4 * 8 + 6 * 4}


@pytest.mark.parametrize(
    ("tensors", "fault"),
    [
        ({}, "no tensor"),
        (_with("layer.lora_A.weight", np.zeros((0, 8), np.float32)), "is empty"),
        (_with("layer.lora_A.weight", np.zeros((4, 8), np.float32)), "all zero"),
        (_with("layer.lora_B.weight", np.zeros((6, 4), np.float32)), "all zero"),
        (_with("layer.lora_A.weight", np.full((4, 8), np.nan, np.float32)), "not finite"),
        (_with("layer.lora_B.weight", np.full((6, 4), np.inf, np.float32)), "not finite"),
        (_with("layer.lora_A.weight", np.ones((3, 8), np.float32)), "not of rank 4"),
        (_with("layer.lora_B.weight", np.ones((6, 3), np.float32)), "not of rank 4"),
    ],
    ids=["none", "empty", "zero A", "zero B", "nan", "inf", "rank of A", "rank of B"],
)
def test_verify_adapter_refuses_unusable_tensors_saying_why(tensors: Tensors, fault: str, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=fault):
        verify_adapter(_save(tmp_path, tensors))


def test_adapter_in_bfloat16_is_verified_like_another(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    halves = {name: torch.from_numpy(tensor).bfloat16() for name, tensor in _good().items()}
    folder = _save(tmp_path, {})
    save_file(halves, tmp_path / "adapter_model.safetensors")
    assert verify_adapter(folder) == {"num_tensors": 2, "num_parameters": 4 * 8 + 6 * 4}
    halves["layer.lora_B.weight"][0, 0] = float("nan")
    save_file(halves, tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="not finite"):
        verify_adapter(folder)


def test_layers_that_learned_nothing_are_named_and_refused_only_where_none_learned(tmp_path: Path) -> None:
    other = {name.replace("layer", "other"): tensor for name, tensor in _good().items()}
    zero = np.zeros((6, 4), np.float32)
    folder = _save(tmp_path, {**_good(), **other, "other.lora_B.weight": zero})
    assert verify_adapter(folder) == {"num_tensors": 4, "num_parameters": 2 * (4 * 8 + 6 * 4), "num_unlearned": 1}
    assert unlearned(folder) == ["other"]
    _save(tmp_path, {**_good(), **other, "other.lora_B.weight": zero, "layer.lora_B.weight": zero})
    with pytest.raises(AdapterError, match="all zero"):
        verify_adapter(folder)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "adapter_model.safetensors").unlink(),
        lambda folder: (folder / "adapter_config.json").unlink(),
        lambda folder: (folder / "adapter_config.json").write_text("{"),
        lambda folder: (folder / "adapter_config.json").write_text("{}"),
        lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"torn"),
    ],
    ids=["no weights", "no config", "torn config", "no rank", "torn weights"],
)
def test_verify_adapter_refuses_missing_and_damaged_files(spoil: Callable[[Path], object], tmp_path: Path) -> None:
    folder = _save(tmp_path, _good())
    spoil(tmp_path)
    with pytest.raises(AdapterError, match="cannot be re-opened"):
        verify_adapter(folder)


def test_adapter_digest_changes_with_weights_and_with_configuration(tmp_path: Path) -> None:
    folder = _save(tmp_path, _good())
    seen = {adapter_digest(folder)}
    (tmp_path / "README.md").write_text("no part of what is served")
    seen.add(adapter_digest(folder))
    assert len(seen) == 1
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 64}))
    seen.add(adapter_digest(folder))
    _save(tmp_path, _with("layer.lora_A.weight", np.ones((4, 8), np.float32)))
    seen.add(adapter_digest(folder))
    assert len(seen) == 3


def test_merged_model_answers_as_peft_does(tiny_llama: Path, tiny_adapters: tuple[Path, Path], tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ids = torch.arange(5, 60)[None]
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    with torch.no_grad():
        untouched = base(ids).logits
        expected = PeftModel.from_pretrained(base, tiny_adapters[0])(ids).logits
    merge(str(tiny_llama), str(tiny_adapters[0]), "float32", str(tmp_path))
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")(ids).logits
    assert float((untouched - expected).abs().max()) > 0.1
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)


def test_merge_to_bfloat16_is_the_float32_merge_rounded_once(
    tiny_llama: Path, tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    for dtype in ("float32", "bfloat16"):
        merge(str(tiny_llama), str(tiny_adapters[0]), dtype, str(tmp_path / dtype))
    exact, rounded = (load_file(tmp_path / d / "model.safetensors") for d in ("float32", "bfloat16"))
    assert exact.keys() == rounded.keys()
    assert all(torch.equal(exact[name].bfloat16(), rounded[name]) for name in exact)


def test_whole_model_is_verified_and_its_digest_follows_its_weights(model_of: Callable[[str], Path]) -> None:
    from safetensors.torch import load_file, save_file

    folder = model_of("chatml")
    weights = load_file(folder / "model.safetensors")
    num_parameters = sum(tensor.numel() for tensor in weights.values())
    assert verify_adapter(str(folder)) == {"num_tensors": len(weights), "num_parameters": num_parameters}
    before = adapter_digest(str(folder))
    name = sorted(weights)[0]
    weights[name].view(-1)[0] += 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert adapter_digest(str(folder)) != before
    weights[name].view(-1)[0] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(AdapterError, match=f"tensor {name} is not finite; the fine-tuned model is not usable"):
        verify_adapter(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(AdapterError, match="cannot be re-opened"):
        verify_adapter(str(folder))


def test_whole_model_that_was_fine_tuned_is_served_in_its_bases_place(
    tiny_llama: Path, build_tiny: Callable[..., Path], tmp_path: Path
) -> None:
    import asyncio

    from semievol_ray.core.answers import Labels
    from semievol_ray.engines.base import EngineSpec, Request, Sampling
    from semievol_ray.engines.opening import open_generator

    tuned = str(build_tiny(tmp_path, seed=5))
    found = []
    for path, merged in ((str(tiny_llama), tuned), (tuned, None), (str(tiny_llama), None)):
        spec = EngineSpec("transformers", "t", path, merged, {}, "float32", 256, 4, 0, 1, False, Labels(("a", "b")))
        request = Request(tuple(range(10, 30)), Sampling(0.0, 8))
        found.append(asyncio.run(open_generator(spec).generate(request)).token_logprobs)
    assert found[0] == found[1] != found[2]


def test_engines_that_start_together_merge_their_adapter_once(
    tiny_llama: Path, tiny_adapters: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from semievol_ray.core.answers import Labels
    from semievol_ray.engines.base import EngineSpec
    from semievol_ray.engines.opening import open_generator

    merges: list[str] = []

    def merging(*arguments: str) -> None:
        merges.append(arguments[-1])
        merge(*arguments)

    def opened(spec: EngineSpec, *_: object) -> list[str]:
        time.sleep(0.3)
        return [spec.model_path, *(path.name for path in Path(spec.model_path).glob("*.safetensors"))]

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("semievol_ray.engines.adapters.merge", merging)
    monkeypatch.setattr("semievol_ray.engines.opening._open", opened)
    spec = EngineSpec(
        "vllm", "t", str(tiny_llama), str(tiny_adapters[0]), {}, "float32", 256, 4, 0, 1, False, Labels(("a", "b"))
    )
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(open_generator, [spec] * 4))
    assert found == [[merges[0], "model.safetensors"]] * 4
    assert len(merges) == 1
    assert not Path(merges[0]).exists()
