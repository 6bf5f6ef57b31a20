"""Exports of the models of a run made by hand: round 0 of the labels, rounds 1 and 2 with pseudo-labels."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from safetensors.numpy import save_file

from semievol_ray import cli, folders, schema, storage
from semievol_ray.engines.models import resolve_model
from semievol_ray.errors import AdapterError, DriftError, UserError
from semievol_ray.modelexport import export_model
from semievol_ray.runs import Run

ADAPTER = {"base_model_name_or_path": "elsewhere", "peft_type": "LORA", "r": 2, "lora_alpha": 4}
ACCURACY = {"accuracy": 0.75, "accuracy_low": 0.5, "accuracy_high": 0.875, "num_rows": 32, "num_unreadable": 1}
EXAMPLES = {"labeled-part-00000": 3, "labeled-part-00001": 2, "round-0001-part-00000": 4}


def _base(folder: Path) -> Path:
    """A model folder as far as exporting an adapter reads one."""
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    save_file({"weight": np.ones((2, 2), np.float32)}, folder / "model.safetensors")
    return folder


def _adapter(folder: str, value: float) -> None:
    tensors = {"layer.lora_A.weight": np.full((2, 3), value, np.float32), "layer.lora_B.weight": np.ones((3, 2))}
    with folders.local_folder(folder) as here:
        save_file(tensors, f"{here}/adapter_model.safetensors")
        Path(here, "adapter_config.json").write_text(json.dumps(ADAPTER))


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """made(root, final, changes) -> the folder of a run whose rounds 0, 1 and 2 are trained; round 1 is evaluated."""
    monkeypatch.setenv("SEMIEVOL_CACHE", str(tmp_path / "cache"))
    base = _base(tmp_path / "base")
    tree: dict[str, Any] = {
        "name": "made", "task": "wordnet", "model": str(base),
        "data": {"labeled": "/private/labeled.csv", "unlabeled": "/private/unlabeled.csv"},
        "method": {"collaborators": [{"model": "big", "endpoint": {"url": "http://secret.example/v1"}}]},
    }  # fmt: skip

    def commit(run: Run, name: str, metrics: Mapping[str, Any], **of: Any) -> None:
        run.commit(run.step(name, **{"settings": {}, "inputs": {}, "parts": [], **of}), metrics)

    def make(root: str = str(tmp_path / "run"), final: int | None = None, **changes: Any) -> str:
        manifest = {"name": "made", "config": tree | changes} | ({"final": {"round": final}} if final else {})
        with Run.open(root, manifest) as run:
            step = run.step("rounds/0001/examples", settings={}, inputs={}, parts=list(EXAMPLES))
            for part, num in EXAMPLES.items():
                rows = [dict.fromkeys(schema.EXAMPLES.names) | {"id": f"{part}-{i}"} for i in range(num)]
                step.commit_part(part, pa.Table.from_pylist(rows, schema=schema.EXAMPLES))
            run.commit(step, {})
            for number in range(3):
                _adapter(f"{root}/rounds/{number:04d}/train/adapter", 1.0 + number)
                commit(
                    run, f"rounds/{number:04d}/train", {"train_loss": 0.25}, numerics={"dtype": "float32"},
                    settings={"train": {"learning_rate": 3e-4}, "seed": 5},
                    inputs={"model": resolve_model(str(base)).digest},
                )  # fmt: skip
            commit(run, "rounds/0001/evaluate", ACCURACY)
        return root

    return make


def _value(folder: str) -> float:
    from safetensors.numpy import load_file

    return float(load_file(f"{folder}/adapter_model.safetensors")["layer.lora_A.weight"][0, 0])


def test_model_export_takes_the_handed_over_round_else_the_last_else_the_asked_one(
    made: Callable[..., str], tmp_path: Path
) -> None:
    root = made(final=1)
    unfinished = made(str(tmp_path / "unfinished"))
    for source, number, expected in ((root, None, 1), (unfinished, None, 2), (root, 0, 0)):
        done = export_model(source, str(tmp_path / f"out-{expected}"), number=number)
        assert (done.round, done.kind, _value(done.path)) == (expected, "adapter", 1.0 + expected)
    with pytest.raises(UserError, match=r"no model of round 7; rounds with one: 0, 1, 2"):
        export_model(root, str(tmp_path / "out-7"), number=7)


def test_model_export_holds_tokenizer_template_and_a_card_without_private_addresses(
    made: Callable[..., str], tmp_path: Path
) -> None:
    out = Path(export_model(made(final=1), str(tmp_path / "out")).path)
    assert (out / "chat_template.jinja").read_text() == "{{ messages }}"
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(tmp_path / "base")
    card = (out / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert (front["base_model"], front["library_name"]) == (str(tmp_path / "base"), "peft")
    assert "| labeled | 5 |" in card
    assert "| pseudo-labels accepted in round 1 | 4 |" in card
    assert "| SemiEvol | 75.0% | 50.0 to 87.5% | 32 |" in card
    assert "learning_rate: 0.0003" in card
    assert "private" not in card
    assert "secret" not in card


def test_model_export_overwrites_nothing_and_leaves_nothing_when_it_fails(
    made: Callable[..., str], tmp_path: Path
) -> None:
    root, taken = made(), tmp_path / "taken"
    taken.mkdir()
    with pytest.raises(UserError, match="exists already"):
        export_model(root, str(taken))
    before = sorted(tmp_path.iterdir())
    Path(root, "rounds/0002/train/adapter/adapter_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(AdapterError, match="cannot be re-opened"):
        export_model(root, str(tmp_path / "out"))
    assert sorted(tmp_path.iterdir()) == before


def test_model_export_on_another_base_than_the_one_trained_is_refused(made: Callable[..., str], tmp_path: Path) -> None:
    root = made()
    save_file({"weight": np.zeros((2, 2), np.float32)}, tmp_path / "base" / "model.safetensors")
    with pytest.raises(DriftError, match="is not the one that was fine-tuned"):
        export_model(root, str(tmp_path / "out"))


def test_model_export_of_a_run_without_a_model_says_so(made: Callable[..., str], tmp_path: Path) -> None:
    with Run.open(str(tmp_path / "new"), {"name": "new", "config": {}} | _manifest(made(final=1))):
        pass
    with pytest.raises(UserError, match="none of its rounds is fine-tuned"):
        export_model(str(tmp_path / "new"), str(tmp_path / "out"))
    with pytest.raises(UserError, match="scripted engine"):
        export_model(made(str(tmp_path / "scripted"), numerics={"engine": "scripted"}), str(tmp_path / "out"))


def _manifest(root: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(root, "manifest.json").read_text())
    return {key: found[key] for key in ("name", "config")}


def test_model_export_from_a_run_in_a_store_to_a_store_is_as_on_disk(
    made: Callable[..., str], s3_root: str, tmp_path: Path
) -> None:
    root, out = made(s3_root, final=1), f"{s3_root}-model"
    export_model(root, out)
    export_model(root, str(tmp_path / "out"))
    there = storage.sizes(out)
    assert there.keys() == storage.sizes(str(tmp_path / "out")).keys() >= {"README.md", "adapter_config.json"}
    assert _value(folders.local_copy(out)) == _value(str(tmp_path / "out")) == 2.0
    with pytest.raises(UserError, match="exists already"):
        export_model(root, out)


@pytest.mark.parametrize("words", [["--model", "OUT"], ["--model", "--out", "OUT"]])
def test_export_command_writes_the_model_where_it_is_told_to(
    words: list[str], made: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = [str(tmp_path / "out") if word == "OUT" else word for word in words]
    assert cli.main(["export", made(), *told, "--round", "1"]) == 0
    assert _value(str(tmp_path / "out")) == 2.0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: adapter of round 1\n"


def test_export_command_refuses_a_model_without_a_folder_and_data_that_is_merged(
    made: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    root = made()
    assert cli.main(["export", root, "--model", "--merged"]) == 2
    assert cli.main(["export", root, "--data", "all", "--merged"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "name the new folder of the model" in told
    assert "go with --model" in told
