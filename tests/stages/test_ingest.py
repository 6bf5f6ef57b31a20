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
from semievol_ray.stages.cutter import part_rows
from semievol_ray.stages.ingest import Data, ingest

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
    return {"name": "n", "task": TASK, "data": files, "model": "m", "speed": {"part_rows": 4}, "method": {"rounds": 2}}


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
    rows = list(question_rows(data.pool.rows, schema.UNLABELED))
    assert [(r["question"], r["num_copies"]) for r in rows] == [("fern", 3), ("moss", 2), ("oak", 1), ("fe rn", 1)]
    assert _counts(data.pool.rows) == {"read": 7, "duplicates": 3, "in_higher_split": 0}


def test_row_in_several_splits_stays_in_the_highest(run: Run, tmp_path: Path) -> None:
    config = _config(
        tmp_path, _plants("in all", "in labeled", "oak"), _plants("in all", "in labeled", "in test", "elm"),
        _plants("in all", "in test", "in all"),
    )  # fmt: skip
    data = _ingest(run, config)
    assert _questions(data.test) == ["in all", "in test", "in all"]  # test is never reduced
    assert _questions(data.labeled) == ["in labeled", "oak"]
    assert _questions(data.pool.rows, schema.UNLABELED) == ["elm"]
    assert _counts(data.labeled)["in_higher_split"] == 1
    assert _counts(data.pool.rows)["in_higher_split"] == 3


def test_gold_of_the_pool_lies_apart_in_the_same_order(run: Run, tmp_path: Path) -> None:
    data = _ingest(run, _config(tmp_path, _plants("x"), [(f"q{i}", "animal" if i % 3 else "") for i in range(9)]))
    assert "answer" not in schema.UNLABELED.names
    assert data.pool.gold.parts == data.pool.rows.parts
    ids = [r["id"] for r in question_rows(data.pool.rows, schema.UNLABELED)]
    gold = list(question_rows(data.pool.gold, schema.GOLD))
    assert [g["id"] for g in gold] == ids
    assert [g["answer"] for g in gold] == [None if i % 3 == 0 else "animal" for i in range(9)]


def test_pool_without_an_answer_column_has_null_gold(run: Run, tmp_path: Path) -> None:
    config = _config(tmp_path, _plants("x"), [])
    (tmp_path / "unlabeled.csv").write_text("question\na\nb\n")
    assert [g["answer"] for g in question_rows(_ingest(run, config).pool.gold, schema.GOLD)] == [None, None]


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
            found = _questions(_ingest(run, config).pool.rows, schema.UNLABELED)
        assert len(found) == 20
        drawn.append(set(found))
        random.Random(7).shuffle(questions)
    assert drawn[0] == drawn[1] != drawn[2]


def test_parts_are_of_the_configured_length_and_cut_once(run: Run, tmp_path: Path) -> None:
    config = _config(tmp_path, _plants("x"), _plants(*[f"q{i}" for i in range(10)]))
    data = _ingest(run, config)
    lengths = [data.pool.rows.read_part(p, schema.UNLABELED).num_rows for p in data.pool.rows.parts]
    assert lengths == [4, 4, 2]
    again = _ingest(run, config | {"speed": {"part_rows": 3}})
    assert again.pool.rows.parts == data.pool.rows.parts


@pytest.mark.parametrize(
    ("num_rows", "rows"), [(1, 32), (32 * 512, 32), (32 * 512 + 1, 33), (10**6, 1954), (10**8, 2048)]
)
def test_automatic_part_is_the_pool_over_512_within_bounds(num_rows: int, rows: int) -> None:
    assert part_rows("auto", num_rows) == rows


def test_ingest_cut_short_goes_on_with_the_missing_parts(run: Run, tmp_path: Path) -> None:
    config = _config(tmp_path, _plants("x"), _plants(*[f"q{i}" for i in range(10)]))
    data = _ingest(run, config)
    digests = data.pool.rows.digest(), data.pool.gold.digest()
    kept = Path(data.pool.rows.part_path("part-00000")).stat().st_mtime_ns
    for step in (data.pool.rows, data.pool.gold):  # as a death between the first and the second part leaves them
        record = {key: value for key, value in step.record().items() if key != "committed"}
        Path(step.path, "step.json").write_text(json.dumps(record))
        for part in step.parts[1:]:
            Path(step.part_path(part)).unlink()
    again = _ingest(run, config)
    assert (again.pool.rows.digest(), again.pool.gold.digest()) == digests
    assert Path(again.pool.rows.part_path("part-00000")).stat().st_mtime_ns == kept


def test_changed_input_file_is_refused(run: Run, tmp_path: Path) -> None:
    config = _config(tmp_path, _plants("x"), _plants("a", "b"))
    _ingest(run, config)
    _csv(tmp_path, "unlabeled", _plants("a", "c"))
    with pytest.raises(DriftError, match=r"inputs\.file"):
        _ingest(run, config)


def _held(tree: dict[str, Any], **folds: int) -> dict[str, Any]:
    return tree | {"data": tree["data"] | folds}


def test_dev_and_validation_are_cut_from_the_labels_and_leave_them(run: Run, tmp_path: Path) -> None:
    labels = [(f"q{i}", "animal" if i % 2 else "plant") for i in range(30)]
    tree = _config(tmp_path, labels, _plants("x", "q3"))
    data = _ingest(run, _held(tree, dev=9, validation=5))
    assert data.dev is not None
    folds = [_questions(data.labeled), _questions(data.validation), _questions(data.dev.rows, schema.UNLABELED)]
    assert [len(fold) for fold in folds] == [16, 5, 9]
    assert sorted(q for fold in folds for q in fold) == sorted(q for q, _ in labels)
    assert _questions(data.pool.rows, schema.UNLABELED) == ["x"]  # q3 stands in a higher split, whichever
    rows = question_rows(data.dev.rows, schema.UNLABELED)
    gold = question_rows(data.dev.gold, schema.GOLD)
    assert [g["id"] for g in gold] == [r["id"] for r in rows]
    assert {r["question"]: g["answer"] for r, g in zip(rows, gold, strict=True)}.items() <= dict(labels).items()


def test_held_out_rows_are_the_same_whatever_the_order_of_the_file(tmp_path: Path) -> None:
    questions, found = [f"q{i}" for i in range(40)], []
    for number, seed in enumerate((0, 0, 1)):
        (folder := tmp_path / str(number)).mkdir()
        tree = _held(_config(folder, _plants(*questions), _plants("x")), dev=6, validation=6) | {"seed": seed}
        with Run.open(str(folder / "run"), {}) as run:
            data = _ingest(run, tree)
        assert data.dev is not None
        dev, validation = data.dev.rows, data.validation
        found.append((set(_questions(dev, schema.UNLABELED)), set(_questions(validation))))
        random.Random(7).shuffle(questions)
    assert found[0] == found[1]
    assert found[0][0] != found[2][0]


def test_folds_that_leave_nothing_to_learn_from_are_refused(run: Run, tmp_path: Path) -> None:
    tree = _config(tmp_path, _plants(*"abcdef"), _plants("x"))
    with pytest.raises(
        DataError, match=r"labeled\.csv: data\.dev 4 and data\.validation 2 would leave none of 6 .*fewer"
    ):
        _ingest(run, _held(tree, dev=4, validation=2))


@pytest.mark.parametrize("changed", [{"dev": 5}, {"validation": 3}])
def test_other_folds_than_those_a_run_was_begun_with_are_refused(
    changed: dict[str, int], run: Run, tmp_path: Path
) -> None:
    tree = _held(_config(tmp_path, _plants(*"abcdefghijklmn"), _plants("x")), dev=4, validation=2)
    _ingest(run, tree)
    with pytest.raises(DriftError, match=f"settings.{next(iter(changed))}"):
        _ingest(run, _held(tree, **changed))


def test_annotated_rows_become_labels_and_those_without_an_answer_are_passed_over(run: Run, tmp_path: Path) -> None:
    tree = _config(tmp_path, _plants("oak"), _plants("a", "b", "c"), _plants("in test"))
    people = [("a", ""), ("a", "animal"), ("b", ""), ("oak", "plant"), ("in test", "plant"), ("new", "plant")]
    tree["data"]["annotations"] = [{"path": _csv(tmp_path, "people", people), "from_round": 2}]
    data = _ingest(run, tree)
    ((from_round, step),) = data.annotations
    assert from_round == 2
    assert [(r["question"], r["answer"]) for r in question_rows(step, schema.LABELED)] == [
        ("a", "animal"), ("new", "plant"),
    ]  # fmt: skip
    assert _questions(data.pool.rows, schema.UNLABELED) == ["a", "b", "c"]  # a leaves the pool of round 2, not this


def test_row_annotated_in_two_files_is_learned_once(run: Run, tmp_path: Path) -> None:
    tree = _config(tmp_path, _plants("oak"), _plants("a", "b", "c"))
    files = [_csv(tmp_path, name, _plants(*rows)) for name, rows in (("one", "ab"), ("two", "bc"))]
    tree["data"]["annotations"] = [{"path": path, "from_round": 2} for path in files]
    assert [_questions(step) for _, step in _ingest(run, tree).annotations] == [["a", "b"], ["c"]]


def test_annotations_without_any_answer_are_refused(run: Run, tmp_path: Path) -> None:
    tree = _config(tmp_path, _plants("oak"), _plants("a"))
    tree["data"]["annotations"] = [{"path": _csv(tmp_path, "people", [("a", "")]), "from_round": 2}]
    with pytest.raises(DataError, match=r"people\.csv: no row with an answer is new"):
        _ingest(run, tree)


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
    pool = _counts(data.pool.rows)
    assert (pool["duplicates"], pool["in_higher_split"]) == (pool_repeats, pool_in_higher)
    rows = list(question_rows(data.pool.rows, schema.UNLABELED))
    assert len(rows) == read["unlabeled"] - pool_repeats - pool_in_higher
    gold = {g["id"]: g["answer"] for g in question_rows(data.pool.gold, schema.GOLD)}
    assert all(gold[row["id"]] in "ABCDEFGHIJ"[: len(row["options"])] for row in rows)


@pytest.mark.skipif(not SHARED.is_dir(), reason=ABSENT)
def test_published_golds_that_are_positions_become_letters(run: Run) -> None:
    files = {split: str(SHARED / "arc" / f"{split}.csv") for split in ("labeled", "unlabeled")}
    with Path(files["unlabeled"]).open(newline="") as file:
        numbered = {r["question"]: r["answer"] for r in csv.DictReader(file) if r["answer"] in "1234"}
    data = _ingest(run, {"name": "arc", "task": "arc", "data": files, "model": "m", "speed": {"part_rows": 2048}})
    gold = {g["id"]: g["answer"] for g in question_rows(data.pool.gold, schema.GOLD)}
    found = {
        r["question"]: gold[r["id"]]
        for r in question_rows(data.pool.rows, schema.UNLABELED)
        if r["question"] in numbered
    }
    assert len(found) == 26
    assert all(found[q] == "ABCD"[int(position) - 1] for q, position in numbered.items())


def _num_records(path: str) -> int:
    with Path(path).open(newline="") as file:
        return sum(1 for _ in csv.reader(file)) - 1
