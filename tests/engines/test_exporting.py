"""Exported models, opened again by transformers and PEFT: they say what the trained model says."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from semievol_ray.engines.exporting import stored_dtype, write_adapter, write_merged, write_whole
from semievol_ray.errors import AdapterError

QUESTION = [{"role": "user", "content": "a green thing in the garden"}]


def _logits(model: Any, ids: list[int]) -> Any:
    import torch

    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([ids])).logits


@pytest.fixture
def base(tiny_llama: Path, tmp_path: Path) -> Path:
    """The tiny base with generation settings of its own, and a file that is none of an export's business."""
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "base"))
    (folder / "generation_config.json").write_text('{"temperature": 0.3, "do_sample": true}')
    (folder / "notes.txt").write_text("mine")
    (folder / "LICENSE").write_text("free")
    return folder


def _opened(folder: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)


def _of_training(base: Path, adapter: Path) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(_opened(base)[0], str(adapter))


def test_exported_adapter_finds_its_base_and_gives_the_trained_models_logits(
    base: Path, tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    out = tmp_path / "out"
    out.mkdir()
    write_adapter(str(tiny_adapters[0]), str(base), str(base), str(out))

    tokenizer = AutoTokenizer.from_pretrained(out)
    ids = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False)
    assert ids == _opened(base)[1].apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False)
    found = _logits(AutoPeftModelForCausalLM.from_pretrained(out), ids)
    assert found.equal(_logits(_of_training(base, tiny_adapters[0]), ids))
    assert not found.equal(_logits(_opened(base)[0], ids))
    assert json.loads((out / "generation_config.json").read_text())["temperature"] == 0.3
    assert (out / "LICENSE").is_file()
    assert not (out / "notes.txt").exists()


def test_exported_merged_model_gives_the_trained_models_logits_in_the_bases_dtype(
    base: Path, tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    import torch

    out = tmp_path / "out"
    assert write_merged(str(tiny_adapters[1]), str(base), str(out)) == stored_dtype(str(base)) == "float32"

    model, tokenizer = _opened(out)
    ids = tokenizer.encode("a green thing")
    torch.testing.assert_close(_logits(model, ids), _logits(_of_training(base, tiny_adapters[1]), ids))
    assert model.generation_config.temperature == 0.3


def test_exported_whole_model_is_opened_again_with_the_same_logits(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write_whole(str(base), str(out))

    model, tokenizer = _opened(out)
    ids = tokenizer.encode("a green thing")
    assert _logits(model, ids).equal(_logits(_opened(base)[0], ids))


def test_adapter_of_a_hub_model_names_the_hub_model_as_its_base(
    base: Path, tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    write_adapter(str(tiny_adapters[0]), str(base), "some/model", str(tmp_path))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "some/model"


def test_adapter_that_was_damaged_since_is_not_exported(
    base: Path, tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(tiny_adapters[0], tmp_path / "broken"))
    weights = broken / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(AdapterError, match="cannot be re-opened"):
        write_adapter(str(broken), str(base), str(base), str(tmp_path))


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"torch_dtype": "float16"}, "float16"),
        ({"text_config": {"dtype": "bfloat16"}}, "bfloat16"),
        ({"dtype": None}, "float32"),
    ],
)
def test_dtype_of_a_merged_model_is_the_one_its_base_is_stored_in(
    config: dict[str, Any], dtype: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert stored_dtype(str(tmp_path)) == dtype
