"""A run served by Ray Serve with the scripted engine: asked by the `openai` client, and what is refused before that."""

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pyarrow.parquet as pq
import pytest

from semievol_ray import cli
from semievol_ray.config import ReplicaRange
from semievol_ray.endpoint.gate import key_digest
from semievol_ray.errors import UserError
from semievol_ray.handover import reopened
from semievol_ray.label import label_file
from semievol_ray.progress import Progress
from semievol_ray.serve import KEY_VARIABLE, Served, ServeSettings, read_key, serve_run, told
from semievol_ray.stages.deployment import Head
from tests.conftest import run_here
from tests.rundirs import changed, do_run, run_tree

KEY = "sk-of-this-test-0123456789"
QUESTIONS = [f"new thing {i} [{w}]" for i, w in enumerate(("person", "animal", "plant", "food") * 3)]


@pytest.fixture(scope="module")
def finished(small_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ARG001
    """A run with a dev fold that certifies a precision of 0.6; only to be labelled with and served."""
    folder = tmp_path_factory.mktemp("served")
    tree = run_tree(folder, labeled=100, unlabeled=32, test=16)
    tree = changed(changed(tree, "data.dev", 60), "guard", {"min_accepted": 1, "min_answers": 1})
    tree = changed(tree, "method.select", {"rule": "precision_bound", "target_precision": 0.6})
    with pytest.MonkeyPatch.context() as patch:
        run_here(patch)
        do_run(changed(tree, "speed.num_cpus_per_replica", 0.5), folder / "run")
    return folder / "run"


def serve(root: Path, until: Callable[[Served], None], **more: Any) -> None:
    serve_run(str(root), ServeSettings(**{"port": 0, "key": key_digest(KEY), **more}), Progress(quiet=True), until)


def label(url: str, question: str) -> dict[str, Any]:
    reply = httpx.post(f"{url}/label", json={"question": question}, headers={"Authorization": f"Bearer {KEY}"})
    return dict(reply.raise_for_status().json())


def test_served_run_answers_chat_streams_and_labels_as_the_label_command_does(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    found: dict[str, Any] = {}

    def until(served: Served) -> None:
        to = openai.OpenAI(base_url=served.url, api_key=KEY, timeout=20)
        found["models"] = [model.id for model in to.models.list()]
        asked: Any = {"model": "small-round-1", "messages": [{"role": "user", "content": QUESTIONS[0]}]}
        found["whole"] = to.chat.completions.create(**asked, temperature=0).choices[0].message.content
        chunks = to.chat.completions.create(**asked, temperature=0, stream=True)
        found["streamed"] = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        with contextlib.closing(to.chat.completions.create(**asked, stream=True)) as left:
            next(iter(left))
        stranger = openai.OpenAI(base_url=served.url, api_key="sk-wrong")
        with pytest.raises(openai.AuthenticationError):
            stranger.chat.completions.create(**asked)
        with pytest.raises(openai.NotFoundError):
            to.chat.completions.create(**{**asked, "model": "small-round-7"})
        with pytest.raises(openai.BadRequestError):
            to.chat.completions.create(**{**asked, "messages": [{"role": "user", "content": "very " * 200_000}]})
        found["labels"] = [label(served.url, question) for question in QUESTIONS]
        found["certificate"] = served.serving.labelling.certificate

    serve(finished, until)
    assert found["models"] == ["small-base", "small-round-0", "small-round-1"]
    assert found["whole"] == found["streamed"]
    assert found["certificate"].tau is not None

    (tmp_path / "new.jsonl").write_text("".join(json.dumps({"question": q}) + "\n" for q in QUESTIONS))
    run_here(monkeypatch)
    out = tmp_path / "out.parquet"
    done = label_file(str(finished), str(tmp_path / "new.jsonl"), str(out), progress=Progress(quiet=True))
    rows = pq.read_table(out).to_pylist()
    for row, served in zip(rows, found["labels"], strict=True):
        assert (row["id"], row["label"], row["passes"], row["why"]) == tuple(
            served[key] for key in ("id", "label", "passes", "why")
        )
        assert row["confidence"] == pytest.approx(served["confidence"])
    assert done.certificate == found["certificate"]


def test_serve_of_weights_that_cannot_share_an_engine_is_of_one_round_alone(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(shutil.copytree(finished, tmp_path / "run"))
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["config"]["train"]["use_dora"] = True
    (root / "manifest.json").write_text(json.dumps(manifest))
    run_here(monkeypatch)
    monkeypatch.setattr("semievol_ray.serve.deployed", lambda *_: contextlib.nullcontext())
    seen: list[Served] = []
    serve(root, seen.append, number=0)
    serving = seen[0].serving
    assert serving.models == {"small-round-0": None}
    assert serving.spec.merged == f"{root}/rounds/0000/train/adapter"
    assert serving.labelling.manner.adapter is None
    assert (root / "labels/certificates/round-0000-merged-cpu-float32/certificate/step.json").exists()


def test_serve_refuses_a_port_in_use_before_anything_starts(finished: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"127.0.0.1:{port}.*in use.*--port"):
            serve(finished, lambda _: None, port=port)


@pytest.mark.parametrize(
    ("host", "head", "url", "way"),
    [
        ("127.0.0.1", Head("10.0.0.1", True, 8000), "http://127.0.0.1:8000/v1", False),
        ("0.0.0.0", Head("10.0.0.1", True, 8000), "http://0.0.0.0:8000/v1", False),
        ("0.0.0.0", Head("10.0.0.1", False, 8000), "http://10.0.0.1:8000/v1", False),
        ("::", Head("fd00::1", False, 8000), "http://[fd00::1]:8000/v1", False),
        ("127.0.0.1", Head("10.0.0.1", False, 8000), "http://127.0.0.1:8000/v1", True),
    ],
)
def test_serve_on_the_head_of_another_machine_tells_where_that_is_and_the_way_there(
    finished: Path, host: str, head: Head, url: str, way: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_here(monkeypatch)
    monkeypatch.setattr("semievol_ray.serve.deployed", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr("semievol_ray.serve.head_listening", lambda *_: head)
    seen: list[Served] = []
    serve(finished, seen.append, host=host)
    assert seen[0].url == url
    assert ("ssh -L 8000:127.0.0.1:8000 10.0.0.1" in told(seen[0], host)) is way


def test_serve_to_others_without_a_key_is_refused(finished: Path) -> None:
    with pytest.raises(UserError, match=KEY_VARIABLE):
        serve(finished, lambda _: None, host="0.0.0.0", key=None)


def test_serve_of_a_round_that_is_not_there_is_refused(finished: Path) -> None:
    with pytest.raises(UserError, match=r"has no model of round 9; rounds with one: 0, 1\."):
        serve(finished, lambda _: None, number=9)


def test_key_comes_from_the_file_or_the_environment_and_leaves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    assert read_key(None) == KEY
    assert KEY_VARIABLE not in os.environ
    (tmp_path / "key").write_text("sk-in-a-file\n")
    assert read_key(str(tmp_path / "key")) == "sk-in-a-file"
    assert read_key(None) is None


@pytest.mark.parametrize("given", ["0", "3-1", "many", "1-", "-2"])
def test_replicas_that_are_no_range_are_refused_by_the_command(given: str) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(["serve", "run", f"--replicas={given}"])
    assert raised.value.code == 2


@pytest.mark.parametrize("held", ["", "two words", "sk-ünïcode"])
def test_key_file_that_holds_none_is_refused_without_showing_it(tmp_path: Path, held: str) -> None:
    (tmp_path / "key").write_text(held, encoding="utf-8")
    with pytest.raises(UserError) as raised:
        read_key(str(tmp_path / "key"))
    assert held == "" or held not in str(raised.value)
    shutil.rmtree(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        read_key(str(tmp_path / "key"))


def test_adapters_that_are_only_served_merged_are_left_out(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(shutil.copytree(finished, tmp_path / "run"))
    imported = {"modules_to_save": ["lm_head"]}
    monkeypatch.setattr("semievol_ray.serve.adapter_settings", lambda path: imported if "/0000/" in path else {})
    run_here(monkeypatch)
    monkeypatch.setattr("semievol_ray.serve.deployed", lambda *_: contextlib.nullcontext())
    seen: list[Served] = []
    serve(root, seen.append)
    serve(root, seen.append, number=0)
    assert list(seen[0].serving.models) == ["small-base", "small-round-1"]
    assert seen[1].serving.models == {"small-round-0": None}


def test_engines_served_by_default_are_as_many_as_fit(finished: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(finished, tmp_path / "run"))
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["config"]["speed"]["num_replicas"] = 40
    (root / "manifest.json").write_text(json.dumps(manifest))
    assert reopened(str(root), None).speed.num_replicas == 40
    assert reopened(str(root), None, fits=True).speed.num_replicas == "auto"
    assert reopened(str(root), None, (1, 3), fits=True).speed.num_replicas == ReplicaRange(min=1, max=3)
