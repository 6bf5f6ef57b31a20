"""Ingest: which rows end in which split, once each, whatever order the files have."""

import csv
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from semievol_ray import configfile, schema
from semievol_ray.errors import DataError, DriftError
from semievol_ray.runs import Run, Step
from semievol_ray.stages.ingest import Data, ingest, part_rows

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
ABSENT = "the published splits are not beside the checkout (../shared/data)"
TASK = {"name": "kinds", "kind": "labels", "instruction": "Say.", "labels": ["plant", "animal"]}

Rows = Sequence[tuple[str, str]]


def question_rows(step: Step, columns: pa.Schema) -> list[dict[str, Any]]:
    """The rows of a data step, part by part."""
    return [row for part in step.parts for row in step.read_part(part, columns).to_pylist()]


def _csv(folder: Path, name: str, rows: Rows) -> str:
    with (folder / f"{name}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("question", "answer"), *rows])
    return str(folder / f"{name}.csv")


def _config(folder: Path, labeled: Rows, unlabeled: Rows, test: Rows = ()) -> dict[str, Any]:
    files = {
        "labeled": {"path": _csv(folder, "labeled", labeled)},
        "unlabeled": {"path": _csv(folder, "unlabeled", unlabeled)},
    }
    files |= {"test": {"path": _csv(folder, "test", test)}} if test else {}
    return {"name": "n", "task": TASK, "data": files, "model": "m", "speed": {"part_rows": 4}}


def _ingest(run: Run, tree: dict[str, Any]) -> Data:
    config = configfile.parse(tree, "test")
    return ingest(run, config, config.resolve_task())


def _questions(step: Step | None, columns: Any = schema.LABELED) -> list[str]:
    assert step is not None
    return [row["question"] for row in question_rows(step, columns)]


def _counts(step: Step | None) -> dict[str, Any]:
    assert step is not None
    committed = step.committed()
    assert committed is not None
    return dict(committed["metrics"])


def _plants(*questions: str) -> Rows:
    return [(q, "plant") for q in questions]


def test_equal_pool_rows_collapse_to_the_first_with_their_number(run: Run, tmp_path: Path) -> None:
    pool = _plants("fern", "moss", " fern ", "oak", "fe rn", "moss", "fern")
    data = _ingest(run, _config(tmp_path, _plants("x"), pool))
    rows = list(question_rows(data.unlabeled, schema.UNLABELED))
    assert [(r["question"], r["num_copies"]) for r in rows] == [("fern", 3), ("moss", 2), ("oak", 1), ("fe rn", 1)]
    assert _counts(data.unlabeled) == {"read": 7, "duplicates": 3, "in_higher_split": 0}


def test_row_in_several_splits_stays_in_the_highest(run: Run, tmp_path: Path) -> None:
    config = _config(
        tmp_path, _plants("in all", "in labeled", "oak"), _plants("in all", "in labeled", "in test", "elm"),
        _plants("in all", "in test", "in all"),
    )  # fmt: skip
    data = _ingest(run, config)
    assert _questions(data.test) == ["in all", "in test", "in all"]  # test is never reduced
    assert _questions(data.labeled) == ["in labeled", "oak"]
    assert _questions(data.unlabeled, schema.UNLABELED) == ["elm"]
    assert _counts(data.labeled)["in_higher_split"] == 1
    assert _counts(data.unlabeled)["in_higher_split"] == 3


def test_gold_of_the_pool_lies_apart_in_the_same_order(run: Run, tmp_path: Path) -> None:
    data = _ingest(run, _config(tmp_path, _plants("x"), [(f"q{i}", "animal" if i % 3 else "") for i in range(9)]))
    assert "answer" not in schema.UNLABELED.names
    assert data.gold.parts == data.unlabeled.parts
    ids = [r["id"] for r in question_rows(data.unlabeled, schema.UNLABELED)]
    gold = list(question_rows(data.gold, schema.GOLD))
    assert [g["id"] for g in gold] == ids
    assert [g["answer"] for g in gold] == [None if i % 3 == 0 else "animal" for i in range(9)]


def test_pool_without_an_answer_column_has_null_gold(run: Run, tmp_path: Path) -> None:
    config = _config(tmp_path, _plants("x"), [])
    (tmp_path / "unlabeled.csv").write_text("question\na\nb\n")
    assert [g["answer"] for g in question_rows(_ingest(run, config).gold, schema.GOLD)] == [None, None]


def test_labeled_rows_that_disagree_are_refused_naming_both_lines(run: Run, tmp_path: Path) -> None:
    config = _config(tmp_path, [("oak", "plant"), ("cat", "animal"), ("oak", "animal")], _plants("x"))
    with pytest.raises(DataError, match=r"labeled\.csv: lines 2 and 4.*'plant' and 'animal'"):
        _ingest(run, config)


def test_labeled_rows_that_repeat_and_agree_are_kept_once(run: Run, tmp_path: Path) -> None:
    data = _ingest(run, _config(tmp_path, _plants("oak", "elm", "oak"), _plants("x")))
    assert _questions(data.labeled) == ["oak", "elm"]
    assert _counts(data.labeled)["duplicates"] == 1


@pytest.mark.parametrize(("labeled", "unlabeled"), [(["a"], ["b"]), (["x"], ["a"])], ids=["pool", "labels"])
def test_split_that_loses_every_row_is_refused(
    labeled: list[str], unlabeled: list[str], run: Run, tmp_path: Path
) -> None:
    config = _config(tmp_path, _plants(*labeled), _plants(*unlabeled), _plants("x", "b"))
    with pytest.raises(DataError, match="every row also stands in"):
        _ingest(run, config)


def test_sample_is_the_same_rows_whatever_the_order_of_the_file(tmp_path: Path) -> None:
    questions = [f"q{i}" for i in range(60)]
    drawn, seeds = [], (0, 0, 1)
    for number, seed in enumerate(seeds):
        folder = tmp_path / str(number)
        folder.mkdir()
        config = _config(folder, _plants("x"), _plants(*questions)) | {"seed": seed}
        config["data"]["unlabeled"]["sample"] = 20
        with Run.open(str(folder / "run"), {}) as run:
            found = _questions(_ingest(run, config).unlabeled, schema.UNLABELED)
        assert len(found) == 20
        drawn.append(set(found))
        random.Random(7).shuffle(questions)
    assert drawn[0] == drawn[1] != drawn[2]


def test_parts_are_of_the_configured_length_and_cut_once(run: Run, tmp_path: Path) -> None:
    config = _config(tmp_path, _plants("x"), _plants(*[f"q{i}" for i in range(10)]))
    data = _ingest(run, config)
    lengths = [data.unlabeled.read_part(p, schema.UNLABELED).num_rows for p in data.unlabeled.parts]
    assert lengths == [4, 4, 2]
    again = _ingest(run, config | {"speed": {"part_rows": 3}})
    assert again.unlabeled.parts == data.unlabeled.parts


@pytest.mark.parametrize(
    ("num_rows", "rows"), [(1, 32), (32 * 512, 32), (32 * 512 + 1, 33), (10**6, 1954), (10**8, 2048)]
)
def test_automatic_part_is_the_pool_over_512_within_bounds(num_rows: int, rows: int) -> None:
    assert part_rows("auto", num_rows) == rows


def test_ingest_cut_short_goes_on_with_the_missing_parts(run: Run, tmp_path: Path) -> None:
    config = _config(tmp_path, _plants("x"), _plants(*[f"q{i}" for i in range(10)]))
    data = _ingest(run, config)
    digests = data.unlabeled.digest(), data.gold.digest()
    kept = Path(data.unlabeled.part_path("part-00000")).stat().st_mtime_ns
    for step in (data.unlabeled, data.gold):  # as a death between the first and the second part leaves them
        record = {key: value for key, value in step.record().items() if key != "committed"}
        Path(step.path, "step.json").write_text(json.dumps(record))
        for part in step.parts[1:]:
            Path(step.part_path(part)).unlink()
    again = _ingest(run, config)
    assert (again.unlabeled.digest(), again.gold.digest()) == digests
    assert Path(again.unlabeled.part_path("part-00000")).stat().st_mtime_ns == kept


def test_changed_input_file_is_refused(run: Run, tmp_path: Path) -> None:
    config = _config(tmp_path, _plants("x"), _plants("a", "b"))
    _ingest(run, config)
    _csv(tmp_path, "unlabeled", _plants("a", "c"))
    with pytest.raises(DriftError, match=r"inputs\.file"):
        _ingest(run, config)


@pytest.mark.skipif(not SHARED.is_dir(), reason=ABSENT)
@pytest.mark.parametrize(
    ("name", "labeled_in_test", "pool_repeats", "pool_in_higher"),
    [("arc", 0, 1, 0), ("fpb", 1, 2, 2), ("mmlu", 9, 41, 20 + 23)],
)
def test_published_splits_read_as_they_are_with_their_known_duplicates(
    name: str, labeled_in_test: int, pool_repeats: int, pool_in_higher: int, run: Run
) -> None:
    files = {split: str(SHARED / name / f"{split}.csv") for split in ("labeled", "unlabeled", "test")}
    tree = {"name": name, "task": name, "data": files, "model": "m", "speed": {"part_rows": 2048}}
    data = _ingest(run, tree)
    read = {split: _num_records(path) for split, path in files.items()}
    assert len(_questions(data.test)) == read["test"]
    assert _counts(data.labeled)["in_higher_split"] == labeled_in_test
    pool = _counts(data.unlabeled)
    assert (pool["duplicates"], pool["in_higher_split"]) == (pool_repeats, pool_in_higher)
    rows = list(question_rows(data.unlabeled, schema.UNLABELED))
    assert len(rows) == read["unlabeled"] - pool_repeats - pool_in_higher
    gold = {g["id"]: g["answer"] for g in question_rows(data.gold, schema.GOLD)}
    assert all(gold[row["id"]] in "ABCDEFGHIJ"[: len(row["options"])] for row in rows)


@pytest.mark.skipif(not SHARED.is_dir(), reason=ABSENT)
def test_published_golds_that_are_positions_become_letters(run: Run) -> None:
    files = {split: str(SHARED / "arc" / f"{split}.csv") for split in ("labeled", "unlabeled")}
    with Path(files["unlabeled"]).open(newline="") as file:
        numbered = {r["question"]: r["answer"] for r in csv.DictReader(file) if r["answer"] in "1234"}
    data = _ingest(run, {"name": "arc", "task": "arc", "data": files, "model": "m", "speed": {"part_rows": 2048}})
    gold = {g["id"]: g["answer"] for g in question_rows(data.gold, schema.GOLD)}
    found = {
        r["question"]: gold[r["id"]]
        for r in question_rows(data.unlabeled, schema.UNLABELED)
        if r["question"] in numbered
    }
    assert len(found) == 26
    assert all(found[q] == "ABCD"[int(position) - 1] for q, position in numbered.items())


def _num_records(path: str) -> int:
    with Path(path).open(newline="") as file:
        return sum(1 for _ in csv.reader(file)) - 1
