"""Every bad input of a user, through the command line: one clear message, no traceback, nothing lost."""

import errno
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from semievol_ray import cli
from semievol_ray.runs import read_steps
from tests.conftest import KINDS, ScriptedRun, write_config

CHOICE = {"name": "pick", "kind": "choice", "instruction": "Pick one."}


@dataclass(frozen=True)
class Case:
    """A bad input: how it is made in the folder of a good configuration, and what the message has to say."""

    spoil: Callable[[Path], None]
    told: tuple[str, ...]
    overrides: tuple[str, ...] = field(default=())


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


def config(**changes: object) -> Callable[[Path], None]:
    return lambda folder: write_config(folder, **changes) and None


def choice_file(content: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        write_config(folder, task=CHOICE)
        for split in ("labeled", "unlabeled", "test"):
            (folder / f"{split}.csv").write_text(
                'question,options,answer\nq of SPLIT,"[""x"", ""y""]",A\n'.replace("SPLIT", split)
            )
        (folder / "labeled.csv").write_text(content)

    return spoil


def served(adapter: dict[str, object] | None = None, **changes: Any) -> Callable[[Path], None]:
    """A configuration for vLLM, which no engine is started for; `adapter` is the content of a warm adapter's file."""

    def spoil(folder: Path) -> None:
        method: dict[str, Any] = {"embedder": "hash"}
        if adapter is not None:
            (folder / "adapter").mkdir()
            (folder / "adapter/adapter_config.json").write_text(json.dumps(adapter))
            method["warm_adapter"] = "adapter"
        numerics = {"engine": "vllm", **changes.get("numerics", {})}
        write_config(folder, **{"model": "smollm2-135m-instruct", "method": method, **changes, "numerics": numerics})

    return spoil


def without_template(folder: Path) -> None:
    (folder / "model").mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / "model" / name).write_text("{}")
    served(model=str(folder / "model"))(folder)


CASES = {
    "missing file": Case(lambda f: (f / "labeled.csv").unlink(), ("labeled.csv", "no such file", "under data:")),
    "missing configuration": Case(lambda f: (f / "run.yaml").unlink(), ("run.yaml", "no such file", "YAML file")),
    "wrong column": Case(
        text("test.csv", "text,answer\na,plant\n"), ("test.csv", "'question'", "'text'", "data.columns")
    ),
    "wrong column in the pool": Case(
        text("unlabeled.csv", "text\na\n"), ("unlabeled.csv", "'question'", "data.columns")
    ),
    "empty file": Case(text("unlabeled.csv", ""), ("unlabeled.csv", "holds no rows", "at least one row")),
    "header only": Case(text("labeled.csv", "question,answer\n"), ("labeled.csv", "holds no rows")),
    "labeled row without answer": Case(
        text("labeled.csv", "question,answer\na,plant\nb,\n"),
        ("labeled.csv, line 3", "'answer' is empty", "unlabeled file"),
    ),
    "gold outside the labels": Case(
        text("labeled.csv", "question,answer\na,plant\nb,mineral\n"), ("labeled.csv, line 3", "mineral", *KINDS)
    ),
    "gold outside the options": Case(
        choice_file('question,options,answer\nq,"[""x"", ""y""]",C\n'), ("labeled.csv, line 2", "'C'")
    ),
    "options not a list": Case(
        choice_file("question,options,answer\nq,x or y,A\n"), ("labeled.csv, line 2", "'options'", "JSON")
    ),
    "conflicting gold": Case(
        text("labeled.csv", "question,answer\na,plant\na,animal\n"), ("labeled.csv", "lines 2 and 3", "Remove one")
    ),
    "suffix": Case(config(data={"labeled": "run.yaml", "unlabeled": "unlabeled.csv"}), ("run.yaml", ".csv, .jsonl")),
    "unknown key": Case(config(methd={}), ("run.yaml", "methd", "did you mean method")),
    "unknown nested key": Case(
        config(method={"collaborators": [{"demonstration": 1}]}), ("collaborators.0.demonstration ", "demonstrations")
    ),
    "unknown key in -o": Case(
        config(), ("-o method.select.thta", "did you mean method.select.theta"), ("method.select.thta=0.1",)
    ),
    "wrong type": Case(config(train={"lora_r": "many"}), ("run.yaml", "train.lora_r", "whole number", "'many'")),
    "unknown task": Case(config(task="wordnt"), ("run.yaml", "task", "wordnet")),
    "damaged YAML": Case(text("run.yaml", "name: [\n"), ("run.yaml, line", "not valid YAML")),
    "unknown student": Case(
        config(numerics={"engine": "transformers"}), ("model", "'scripted'", "smollm2-135m-instruct")
    ),
    "unknown model of a collaborator": Case(
        config(
            numerics={"engine": "transformers"},
            model="smollm2-135m-instruct",
            method={"embedder": "hash", "collaborators": [{"name": "other", "model": "no-such-model"}]},
        ),
        ("method.collaborators", "other", "'no-such-model'", "org/name"),
    ),
    "two collaborators with one name": Case(
        config(method={"embedder": "hash", "collaborators": [{"name": "one"}, {"name": "one", "demonstrations": 2}]}),
        ("two collaborators are named 'one'",),
    ),
    "engine argument that this vLLM has not": Case(
        served(numerics={"engine_kwargs": {"rope_scalling": 1, "kv_cache_dtyp": "auto"}}),
        ("numerics.engine_kwargs.", "installed here", "no such engine argument"),
    ),
    "misspelt engine argument": Case(
        served(numerics={"engine_kwargs": {"kv_cache_dtyp": "auto"}}),
        ("numerics.engine_kwargs.kv_cache_dtyp", "Did you mean kv_cache_dtype?"),
    ),
    "speed argument that this vLLM has not": Case(
        served(speed={"engine_kwargs": {"swap_space": 4}}), ("speed.engine_kwargs.swap_space", "Leave it out")
    ),
    "engine whose workers Ray is to place": Case(
        served(speed={"engine_kwargs": {"distributed_executor_backend": "ray"}}),
        ("speed.engine_kwargs.distributed_executor_backend", "one node", "Leave it out"),
    ),
    "rank that vLLM does not serve": Case(
        served(numerics={"adapter_serving": "dynamic"}, train={"lora_r": 1024}),
        ("train.lora_r", "rank 1024", "512", "adapter_serving: merged"),
    ),
    "warm adapter of a rank that vLLM does not serve": Case(
        served({"r": 600}, numerics={"adapter_serving": "dynamic"}),
        ("method.warm_adapter", "adapter:", "rank 600", "512"),
    ),
    "DoRA with dynamic serving": Case(
        served(numerics={"adapter_serving": "dynamic"}, train={"use_dora": True}), ("use_dora", "auto or merged")
    ),
    "warm adapter of DoRA with dynamic serving": Case(
        served({"r": 8, "use_dora": True}, numerics={"adapter_serving": "dynamic"}),
        ("method.warm_adapter", "adapter:", "use_dora", "auto or merged"),
    ),
    "warm adapter with modules_to_save and dynamic serving": Case(
        served({"r": 8, "modules_to_save": ["lm_head"]}, numerics={"adapter_serving": "dynamic"}),
        ("method.warm_adapter", "adapter:", "modules_to_save lm_head", "auto or merged"),
    ),
    "model without a chat template": Case(
        without_template, ("its tokenizer has no chat template", "instruct model", "chat_template.jinja")
    ),
}


UNSEEN_BY_CHECK = {"conflicting gold"}
"""Bad input that shows only when a whole file is read."""

VERBS = [("run", name) for name in CASES] + [("check", name) for name in CASES if name not in UNSEEN_BY_CHECK]


@pytest.mark.parametrize(("verb", "name"), VERBS)
def test_bad_input_gives_one_message_and_exit_two(
    verb: str, name: str, config_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    monkeypatch.chdir(config_path.parent)
    case.spoil(config_path.parent)
    options = [argument for override in case.overrides for argument in ("-o", override)]

    assert cli.main([verb, str(config_path), *options]) == 2

    refused(capsys.readouterr().err, *case.told)


def refused(error: str, *told: str) -> None:
    """The error names all of `told`, in one paragraph without a traceback."""
    flat = " ".join(error.split())
    for words in told:
        assert words in flat, flat
    assert "Traceback" not in error
    assert "\n\n" not in error


def test_mended_input_goes_on_in_the_same_folder(
    config_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = (config_path.parent / "unlabeled.csv").read_text()
    (config_path.parent / "unlabeled.csv").write_text("text\na\n")
    root = config_path.parent / "run"
    assert cli.main(["run", str(config_path), "--run", str(root)]) == 2
    before = dict(read_steps(str(root)))

    (config_path.parent / "unlabeled.csv").write_text(good)
    monkeypatch.setitem(sys.modules, "ray", None)  # so that it ends where Ray is first needed
    monkeypatch.setattr("semievol_ray.driver.check_extras", lambda _: None)
    assert cli.main(["run", str(config_path), "--run", str(root)]) == 2

    after = dict(read_steps(str(root)))
    assert {name: after[name] for name in before} == before
    assert "data/unlabeled" in after
    refused(capsys.readouterr().err.partition("starting Ray")[2], "pip install")


def test_missing_extra_is_told_with_its_pip_line_before_anything_is_made(
    config_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)

    assert cli.main(["run", str(config_path), "--run", str(config_path.parent / "run")]) == 2

    refused(capsys.readouterr().err, "faiss", "pip install 'semievol-ray[cpu]'")
    assert not (config_path.parent / "run").exists()


def test_run_directory_of_another_configuration_is_refused_field_by_field(
    copied_run: Path, scripted_run: ScriptedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in copied_run.rglob("step.json")}
    manifest = (copied_run / "manifest.json").read_bytes()

    assert cli.main(["run", str(scripted_run.config), "--run", str(copied_run), "-o", "train.lora_r=8"]) == 2

    refused(capsys.readouterr().err, "settings.train.lora_r: 16 in the run directory, 8 now", "--run DIR", "go back")
    assert {path: path.read_bytes() for path in copied_run.rglob("step.json")} == before
    assert (copied_run / "manifest.json").read_bytes() == manifest


def test_more_errors_than_allowed_stop_the_run_and_keep_its_parts(
    copied_run: Path, scripted_run: ScriptedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    step = copied_run / "rounds/0001/justify/step.json"
    record = json.loads(step.read_text())
    del record["committed"]
    step.write_text(json.dumps(record))
    parts = sorted(copied_run.rglob("*.parquet"))

    assert cli.main(["run", str(scripted_run.config), "--run", str(copied_run), "-o", "max_error_rate=0"]) == 1

    refused(capsys.readouterr().err, "1 of 65 rows", "max_error_rate", "the question alone takes", "same command")
    assert sorted(copied_run.rglob("*.parquet")) == parts


@pytest.mark.parametrize(
    ("number", "told"), [(errno.ENOSPC, "Free some space"), (errno.EROFS, "read-only"), (errno.EACCES, "may write to")]
)
def test_disk_that_takes_no_more_is_told_with_path_and_remedy(
    number: int, told: str, config_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, open_file = config_path.parent / "run", os.open

    def failing(path: str, flags: int, *rest: int, **where: int) -> int:
        """From the pool's first part on."""
        is_part = "part-" in str(path) and str(path).endswith(".tmp")
        if is_part and flags & os.O_CREAT and (root / "data/unlabeled/step.json").exists():
            raise OSError(number, os.strerror(number))
        return open_file(path, flags, *rest, **where)

    monkeypatch.setattr(os, "open", failing)
    assert cli.main(["run", str(config_path), "--run", str(root)]) == 2

    refused(capsys.readouterr().err, "data/unlabeled", os.strerror(number), told)
    steps = dict(read_steps(str(root)))
    assert {name for name, record in steps.items() if record.get("committed")} == {
        "data/test", "data/labeled", "data/read", "data/kept",
    }  # fmt: skip
    assert not list(root.rglob("*.tmp"))


def test_folder_that_cannot_be_made_is_told(config_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (config_path.parent / "file").write_text("")

    assert cli.main(["run", str(config_path), "--run", str(config_path.parent / "file" / "run")]) == 2

    refused(capsys.readouterr().err, "file/run", "name another path")


def test_manifest_holds_the_configuration_that_was_mended(config_path: Path) -> None:
    root = config_path.parent / "run"
    write_config(config_path.parent, data={"labeled": "labeled.csv", "unlabeled": "none.csv", "test": "none.csv"})
    assert cli.main(["run", str(config_path), "--run", str(root)]) == 2

    write_config(config_path.parent, data={"labeled": "labeled.csv", "unlabeled": "none.csv"})
    assert cli.main(["run", str(config_path), "--run", str(root)]) == 2

    saved = json.loads((root / "manifest.json").read_text())["config"]
    assert saved["data"]["test"] is None
    assert yaml.safe_load(config_path.read_text())["data"]["labeled"] == "labeled.csv"
