"""Whole runs whose folder, data, adapters and outputs lie in an object store."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rundirs
from s3server import S3Server

from semievol_ray import cli, configfile, driver, folders, schema, storage
from semievol_ray.engines import scripted
from semievol_ray.engines.models import resolve_model
from semievol_ray.errors import ConfigError, DataError, ModelError, StorageError
from semievol_ray.export import export_data
from semievol_ray.progress import Progress
from semievol_ray.runs import read_events, read_manifest
from semievol_ray.stages.files import records, source_digest
from semievol_ray.steps import Step
from semievol_ray.study.run import run_study
from semievol_ray.tracking.sinks import Point, Tracked, open_sink

ROWS = [{"question": "straße 1, [plant]", "answer": "plant"}, {"question": 'a "quoted"\nline', "answer": "food"}]


def _run(tree: dict[str, Any], root: str) -> driver.Finished:
    return driver.run(configfile.parse(tree, "test"), root, Progress(quiet=True))


def _stored(tree: dict[str, Any], folder: str) -> dict[str, Any]:
    """The same configuration with its data files and its warm adapter in the store."""
    for split in ("labeled", "unlabeled", "test"):
        folders.put_file(tree["data"][split], f"{folder}/data ü/{split}.csv")
        tree = rundirs.changed(tree, f"data.{split}", f"{folder}/data ü/{split}.csv")
    folders.put_folder(tree["method"]["warm_adapter"], f"{folder}/warm")
    return rundirs.changed(tree, "method.warm_adapter", f"{folder}/warm")


def _parts(root: str) -> dict[str, bytes]:
    return {name: storage.read(f"{root}/{name}") for name in storage.sizes(root) if name.endswith(".parquet")}


@pytest.mark.usefixtures("without_ray")
def test_run_in_a_store_interrupted_and_resumed_decides_as_on_disk_and_leaves_nothing_here(
    s3_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = rundirs.run_tree(tmp_path, labeled=8, unlabeled=16, test=8)
    scripted.finetune([{"id": "a", "answer": "b"}], str(tmp_path / "warm"))
    tree = rundirs.changed(tree, "method.warm_adapter", str(tmp_path / "warm"))
    on_disk = _run(tree, str(tmp_path / "run")).root
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    tree = rundirs.changed(_stored(tree, s3_root), "report_to", ["tensorboard"])

    with monkeypatch.context() as patch:
        left, commit = [7], Step.commit_part

        def interrupted(step: Step, part: str, table: pa.Table) -> bool:
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            return commit(step, part, table)

        patch.setattr(Step, "commit_part", interrupted)
        with pytest.raises(KeyboardInterrupt):
            _run(tree, f"{s3_root}/run")
    half = _parts(f"{s3_root}/run")
    finished = _run(tree, f"{s3_root}/run/")

    assert 0 < len(half) < len(_parts(finished.root))
    assert _parts(finished.root) == _parts(on_disk)
    assert {e["kind"] for e in read_events(finished.root)} >= {"run_started", "step_committed", "step_resumed"}
    assert read_manifest(finished.root)["final"] == read_manifest(on_disk)["final"]
    assert storage.sizes(f"{finished.root}/tensorboard")
    assert export_data(finished.root, "all", "jsonl").num_rows == 16
    assert os.listdir(tmp_path / "scratch") == []  # noqa: PTH208


@pytest.mark.usefixtures("without_ray")
def test_run_in_a_store_is_watched_cleaned_and_verified_as_on_disk(
    s3_root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    on_disk = _run(rundirs.run_tree(tmp_path, labeled=8, unlabeled=16, test=8), str(tmp_path / "run")).root
    folders.put_folder(on_disk, f"{s3_root}/run")
    here, there = (told(root, "status", "--json", capsys=capsys) for root in (on_disk, f"{s3_root}/run"))
    assert _steps(there) == _steps(here)

    first = rundirs.ids_of(Path(on_disk), "data/unlabeled", schema.UNLABELED)[0]
    here, there = (told(root, "explain", first, capsys=capsys) for root in (on_disk, f"{s3_root}/run"))
    assert here == there

    freed = [told(root, "clean", "--keep", "scalars", "--yes", capsys=capsys) for root in (on_disk, f"{s3_root}/run")]

    assert freed[0] == freed[1]
    assert "freed" in freed[0]
    assert _parts(f"{s3_root}/run") == _parts(on_disk)
    assert told(f"{s3_root}/run", "verify", capsys=capsys)


def told(root: str, verb: str, *options: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that succeeds prints."""
    assert cli.main([verb, root, *options]) == 0
    return capsys.readouterr().out


def _steps(told_json: str) -> list[tuple[Any, ...]]:
    return [(step["name"], step["state"], step["rows"]) for step in json.loads(told_json)["steps"]]


@pytest.mark.usefixtures("without_ray")
def test_run_whose_data_address_holds_a_password_writes_nothing_down(s3_root: str, tmp_path: Path) -> None:
    tree = rundirs.run_tree(tmp_path, labeled=16, unlabeled=24)
    with pytest.raises(StorageError, match="user or password") as caught:
        _run(rundirs.changed(tree, "data.labeled", "s3://key:hush@bucket/labeled.csv"), s3_root)
    assert "hush" not in str(caught.value)
    assert storage.sizes(s3_root) == {}


def _write(path: Path) -> None:
    match path.suffix:
        case ".csv":
            quoted = ("question,answer\n", *('"{}",{}\n'.format(*_fields(row)) for row in ROWS))
            path.write_text("".join(quoted), encoding="utf-8")
        case ".jsonl":
            path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in ROWS), encoding="utf-8")
        case _:
            pq.write_table(pa.Table.from_pylist(ROWS), path)


def _fields(row: dict[str, str]) -> tuple[str, str]:
    return row["question"].replace('"', '""'), row["answer"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_data_file_in_a_store_reads_as_on_disk(s3_root: str, tmp_path: Path, suffix: str) -> None:
    path, url = tmp_path / f"rows{suffix}", f"{s3_root}/my räws{suffix}"
    _write(path)
    folders.put_file(str(path), url)
    assert list(records(url)) == list(records(str(path)))
    assert [record for _, record in records(url)] == ROWS


def test_data_file_in_a_store_is_known_by_its_content(s3: S3Server, s3_root: str) -> None:
    url, copy = f"{s3_root}/a.csv", f"{s3_root}/b.csv"
    storage.write(url, b"question\n1\n")
    storage.write(copy, b"question\n1\n")
    before = source_digest(url)
    assert before == source_digest(copy)
    assert not [request for request in s3.requests if request[0] == "GET"], "the file is not read for it"
    storage.write(url, b"question\n2\n")
    assert source_digest(url) != before


def test_data_file_that_is_not_in_the_store_is_named(s3_root: str) -> None:
    for use in (source_digest, lambda url: list(records(url))):
        with pytest.raises(DataError, match=r"cannot .*absent\.csv: there is no such object.*spelling"):
            use(f"{s3_root}/absent.csv")


def test_model_in_a_store_has_the_digest_of_its_folder_and_brings_only_what_is_read(
    s3: S3Server, s3_root: str, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    (model / "onnx").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "pytorch_model.bin", "onnx/model.json"):
        (model / name).write_bytes(b"{}")
    folders.put_folder(str(model), f"{s3_root}/model")
    s3.behave()
    found = resolve_model(f"{s3_root}/model", cache=str(tmp_path / "cache"))
    assert found.path == f"{s3_root}/model"
    assert found.digest == resolve_model(str(model), cache=str(tmp_path / "cache")).digest
    assert not [path for _, path in s3.requests if ".bin?" in path or "onnx/model.json?" in path]
    storage.remove(f"{s3_root}/model/model.safetensors")
    with pytest.raises(ModelError, match=f"{s3_root}/model holds"):
        resolve_model(f"{s3_root}/model", cache=str(tmp_path / "cache"))


def test_tensorboard_of_a_run_in_a_store_lies_there_after_the_end(s3_root: str) -> None:
    sink = open_sink("tensorboard", Tracked(s3_root, "run", {}))
    sink.write([Point("train", {"train/loss": 1.0}, 0, 1.0)])
    sink.close()
    assert [name.split(".")[0] for name in storage.sizes(f"{s3_root}/tensorboard")] == ["train/events"]


def test_study_with_its_runs_in_a_store_is_refused(s3_root: str, tmp_path: Path) -> None:
    tree = rundirs.run_tree(tmp_path, labeled=8, unlabeled=8, test=8)
    study = {"name": "s", "seeds": [0], "base": tree, "variants": [{"name": "a"}]}
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(study), encoding="utf-8")
    with pytest.raises(ConfigError, match=f"{s3_root}.*local folder"):
        run_study(str(path), s3_root)
