"""Data sets through the datasets library, from local folders: no test here needs a network."""

import json
import sys
from pathlib import Path

import datasets
import pytest

from semievol_ray.core.answers import Choice, Labels
from semievol_ray.errors import DataError, MissingExtraError
from semievol_ray.stages.reading import read_rows
from semievol_ray.tasks import Columns, Task

KINDS = Task("kinds", "Say.", Labels(("plant", "animal")), max_tokens=4)


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A folder of data files, as a repository on the hub has them: two splits of jsonl."""
    for split, words in (("train", ["oak", "cat"]), ("test", ["elm"])):
        lines = [json.dumps({"question": w, "answer": "animal" if w == "cat" else "plant"}) for w in words]
        (tmp_path / "repo").mkdir(exist_ok=True)
        (tmp_path / "repo" / f"{split}.jsonl").write_text("\n".join(lines))
    return str(tmp_path / "repo")


def test_rows_of_a_split_stream_as_those_of_a_file_do(folder: str) -> None:
    read = list(read_rows(f"hf://{folder}/train", KINDS, needs_answer=True))
    from_file = list(read_rows(f"{folder}/train.jsonl", KINDS, needs_answer=True))
    assert read == from_file
    assert [r.question for r in read_rows(f"hf://{folder}/test", KINDS, needs_answer=True)] == ["elm"]


def test_rows_of_a_saved_data_set_have_class_names_for_numbers(tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "question": datasets.Value("string"),
            "choices": datasets.List(datasets.Value("string")),
            "answer": datasets.ClassLabel(names=["A", "B"]),
        }
    )
    rows = [{"question": f"q{i}", "choices": ["x", "y"], "answer": i} for i in range(2)]
    data = datasets.Dataset.from_list(rows, features=features)
    data.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": data}).save_to_disk(str(tmp_path / "several"))
    task = Task("pick", "Pick.", Choice(), columns=Columns(options="choices"), max_tokens=4)
    for saved in ("one", "several"):
        read = read_rows(f"hf://{tmp_path}/{saved}/train", task, needs_answer=True)
        assert [(r.answer, r.options) for r in read] == [("A", ["x", "y"]), ("B", ["x", "y"])]


@pytest.mark.parametrize(
    ("split", "told"),
    [("validation", "validation"), ("", "hf://org/name"), (":other/train", "cannot be read")],
)
def test_split_that_is_not_there_is_refused(folder: str, split: str, told: str) -> None:
    path = f"hf://{folder}{split}" if split.startswith(":") else f"hf://{folder}/{split}"
    with pytest.raises(DataError, match=told):
        list(read_rows(path, KINDS, needs_answer=True))


@pytest.mark.parametrize("path", ["hf://org/name", "hf://name", "hf:///train", "hf://org//train"])
def test_name_without_its_three_parts_is_refused(path: str) -> None:
    with pytest.raises(DataError, match="is written hf://org/name"):
        list(read_rows(path, KINDS, needs_answer=True))


def test_data_set_that_cannot_be_reached_is_refused_with_the_ways_on() -> None:
    with pytest.raises(DataError, match=r"hf://nobody/nothing/train cannot be read.*the network"):
        list(read_rows("hf://nobody/nothing/train", KINDS, needs_answer=True))


def test_missing_library_is_one_sentence_with_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match="pip install 'datasets"):
        list(read_rows("hf://org/name/train", KINDS, needs_answer=True))
