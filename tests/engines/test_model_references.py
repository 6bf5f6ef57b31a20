"""What a model is called between machines: each of them here is a process, or a cache, with folders of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from semievol_ray.engines import references
from semievol_ray.engines.models import resolve_model
from semievol_ray.engines.packaged import PackagedModel
from semievol_ray.engines.references import fault, file_sizes, is_folder, local_weights, packaged_reference
from semievol_ray.errors import ModelError
from tests import hubserver
from tests.hubserver import COMMIT, FILES, NAME, Hub

RESOLVE = f"from semievol_ray.engines.models import resolve_model; print(resolve_model({NAME!r}).reference)"
LOAD = "import sys; from semievol_ray.engines.references import local_weights; print(local_weights(sys.argv[1]))"
FETCHED = ["config.json", "model.safetensors"]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hubserver.running() as hub:
        yield hub


def machine(folder: Path, hub: Hub, code: str, *arguments: str, offline: bool = False) -> "subprocess.Popen[str]":
    """A process of a machine whose caches lie in a folder."""
    own = {"HOME": str(folder), "HF_HOME": str(folder / "hf"), "SEMIEVOL_CACHE": str(folder / "cache")}
    environment = {**os.environ, **own, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": str(int(offline)), "NO_PROXY": "*"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def said(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """Stdout and stderr of a process that ended well."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.strip(), err


def test_hub_model_is_fetched_by_each_machine_once_whatever_many_processes_ask(hub: Hub, tmp_path: Path) -> None:
    reference, _ = said(machine(tmp_path / "driver", hub, RESOLVE))
    assert COMMIT in reference
    assert str(tmp_path) not in reference
    assert sorted(hub.fetched) == FETCHED

    asked = [machine(tmp_path / "node", hub, LOAD, reference) for _ in range(3)]
    told = [said(process) for process in asked]

    (folder,) = {out for out, _ in told}
    assert Path(folder).is_relative_to(tmp_path / "node")
    assert (Path(folder) / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert sorted(hub.fetched) == sorted(2 * FETCHED)
    lines = "".join(err for _, err in told)
    assert lines.count(f"fetching {NAME}, commit {COMMIT[:12]}, from the hub") == 1

    for offline in (False, True):
        folder, line = said(machine(tmp_path / "driver", hub, LOAD, reference, offline=offline))
        assert Path(folder).is_relative_to(tmp_path / "driver")
        assert line == ""
    assert sorted(hub.fetched) == sorted(2 * FETCHED)


def test_hub_model_held_in_part_is_made_whole(hub: Hub, tmp_path: Path) -> None:
    reference, _ = said(machine(tmp_path / "driver", hub, RESOLVE))
    folder = Path(said(machine(tmp_path / "node", hub, LOAD, reference))[0])
    (folder / "config.json").unlink()

    assert said(machine(tmp_path / "node", hub, LOAD, reference))[0] == str(folder)
    assert (folder / "config.json").read_bytes() == FILES["config.json"]


def test_hub_model_with_other_weights_on_a_machine_is_refused_there(hub: Hub, tmp_path: Path) -> None:
    reference, _ = said(machine(tmp_path / "driver", hub, RESOLVE))
    folder = Path(said(machine(tmp_path / "node", hub, LOAD, reference))[0])
    weights = folder / "model.safetensors"
    weights.unlink()
    weights.write_bytes(b"changed by hand")

    process = machine(tmp_path / "node", hub, LOAD, reference)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "other weights" in err
    assert str(folder) in err


def test_hub_model_on_a_machine_without_network_names_the_machine_and_the_remedies(hub: Hub, tmp_path: Path) -> None:
    reference, _ = said(machine(tmp_path / "driver", hub, RESOLVE))
    process = machine(tmp_path / "node", hub, LOAD, reference, offline=True)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"ModelError: on {os.uname().nodename}: {NAME} is no local folder and cannot be had from the hub" in err
    assert "HF_HOME" in err


def test_packaged_model_is_made_in_the_cache_of_each_machine(
    tiny: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("models", "references"):
        monkeypatch.setattr(f"semievol_ray.engines.{module}.PACKAGED", {"tiny": tiny})
    monkeypatch.setenv("SEMIEVOL_CACHE", str(tmp_path / "driver"))
    found = resolve_model("tiny")
    assert local_weights(found.reference) == found.path
    capsys.readouterr()

    monkeypatch.setenv("SEMIEVOL_CACHE", str(tmp_path / "node"))
    folder = Path(local_weights(found.reference))

    assert folder.is_relative_to(tmp_path / "node")
    assert file_sizes(str(folder)) == file_sizes(found.path)
    assert f"{os.uname().nodename}: fetching tiny" in capsys.readouterr().err
    with pytest.raises(ModelError, match="tiny has other weights"):
        local_weights(packaged_reference("tiny", "0" * 64))


def test_reference_is_resolved_where_the_cache_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEMIEVOL_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(references, "_packaged", lambda *_: (tmp_path, "0" * 64))
    assert local_weights(packaged_reference("tiny", "0" * 64)) == str(tmp_path)


def test_folder_of_ones_own_stays_a_folder_and_has_to_hold_the_same_files(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    reference = resolve_model(str(model), cache=str(tmp_path / "cache")).reference
    sizes = file_sizes(reference)

    assert (reference, is_folder(reference), local_weights(reference)) == (str(model), True, str(model))
    assert not is_folder("s3://bucket/model")
    assert fault(reference, sizes) is None
    (model / "model.safetensors").write_bytes(b"half")
    assert "has not the same model.safetensors" in str(fault(reference, sizes))
    assert "is not there" in str(fault(str(tmp_path / "elsewhere"), sizes))


def test_fault_of_what_cannot_be_fetched_is_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> tuple[Path, str]:
        raise ModelError("pip finds none")

    monkeypatch.setenv("SEMIEVOL_CACHE", str(tmp_path))
    monkeypatch.setattr(references, "_packaged", fails)
    assert str(fault(packaged_reference("tiny", "0" * 64), {})).endswith("pip finds none")
