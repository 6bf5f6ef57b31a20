"""Fixtures of many tests: a small labels task in files, and one whole scripted run of it, made once a session."""

import csv
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

KINDS = ("plant", "animal", "artifact")
TASK = {"name": "kinds", "kind": "labels", "labels": list(KINDS), "instruction": "Say what kind of thing it is."}
TOO_LONG = "a very " + "very " * 200 + "long thing [plant]"


@dataclass(frozen=True)
class ScriptedRun:
    """A finished run: its folder, and the configuration file it was made from."""

    root: Path
    config: Path


def write_rows(path: Path, questions: Sequence[str], *, answers: bool) -> None:
    """A csv file of questions such as `oak 7 [plant]`, whose answer stands in the brackets."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answer"] if answers else ["question"])
        for question in questions:
            answer = question.rpartition("[")[2].rstrip("]")
            writer.writerow([question, answer] if answers else [question])


def questions(num: int, stem: str) -> list[str]:
    """`num` different questions; `stem` keeps those of one split apart from another's."""
    return [f"the {stem} number {i} [{KINDS[i % len(KINDS)]}]" for i in range(num)]


def write_config(folder: Path, **changes: object) -> Path:
    """Data files and run.yaml of a scripted run in `folder`; `changes` replace keys of the configuration."""
    write_rows(folder / "labeled.csv", questions(24, "labeled"), answers=True)
    write_rows(folder / "unlabeled.csv", questions(64, "pool"), answers=True)
    write_rows(folder / "test.csv", questions(32, "test"), answers=True)
    config = {
        "name": "scripted",
        "task": TASK,
        "data": {split: f"{split}.csv" for split in ("labeled", "unlabeled", "test")},
        "model": "scripted",
        "method": {"embedder": "hash"},
        "numerics": {"engine": "scripted", "max_model_len": 1024},
        **changes,
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    """The configuration of a scripted run that was not made yet, its data files beside it."""
    return write_config(tmp_path)


@pytest.fixture(scope="session")
def scripted_run(tmp_path_factory: pytest.TempPathFactory) -> ScriptedRun:
    """A finished run with one question too long for the engine. It is shared: copy it before changing anything."""
    from semievol_ray import configfile, driver
    from semievol_ray.progress import Progress

    folder = tmp_path_factory.mktemp("scripted")
    config = write_config(folder, max_error_rate=0.05)
    pool = [*questions(64, "pool"), "the pool number 1  [animal]", "the test number 0 [plant]", TOO_LONG]
    write_rows(folder / "unlabeled.csv", pool, answers=True)
    root = folder / "run"
    driver.run(configfile.load(str(config)), str(root), Progress(quiet=True))
    return ScriptedRun(root, config)


@pytest.fixture
def copied_run(scripted_run: ScriptedRun, tmp_path: Path) -> Path:
    """A copy of the finished run, to change at will."""
    return Path(shutil.copytree(scripted_run.root, tmp_path / "copied"))
