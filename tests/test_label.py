"""Labels of new rows: every row once and in order, and a verdict that held-out labels of the run certify."""

import csv
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from semievol_ray import cli, schema
from semievol_ray.errors import UserError
from semievol_ray.label import Labelled, label_file, render
from semievol_ray.progress import Progress
from semievol_ray.runs import Run
from tests.conftest import run_here
from tests.rundirs import changed, do_run, metrics_of, parts_under, rows_of, run_tree, stamps_under, write_questions

NUM_NEW = 60
CERTIFICATE = "labels/certificates/round-0001-merged-cpu-float32"


@pytest.fixture(scope="module")
def certifying(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose dev fold is large enough to certify a precision of 0.6; to be copied."""
    folder = tmp_path_factory.mktemp("certifying")
    tree = run_tree(folder, labeled=120, unlabeled=48, test=24)
    tree = changed(changed(tree, "data.dev", 80), "guard", {"min_accepted": 1, "min_answers": 1})
    with pytest.MonkeyPatch.context() as patch:
        run_here(patch)
        do_run(changed(tree, "method.select", {"rule": "precision_bound", "target_precision": 0.6}), folder / "run")
    return folder / "run"


@pytest.fixture
def root(certifying: Path, tmp_path: Path) -> Path:
    """A copy of that run, to label with."""
    return Path(shutil.copytree(certifying, tmp_path / "run"))


def label(root: Path, data: Path, out: Path, **more: Any) -> Labelled:
    return label_file(str(root), str(data), str(out), progress=Progress(quiet=True), **more)


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """A file of new rows, one of them twice and one too long to be answered."""
    path = tmp_path / "new.csv"
    write_questions(path, NUM_NEW, answers=False)
    with path.open("a", encoding="utf-8") as file:
        file.write("new thing 0 [person]\n" + "very " * 3000 + "long [food]\n")
    return path


@pytest.mark.usefixtures("without_ray")
def test_label_without_a_dev_fold_leaves_passes_empty_and_says_why(tmp_path: Path, new: Path) -> None:
    do_run(run_tree(tmp_path, labeled=24, unlabeled=32, test=8), tmp_path / "run")
    done = label(tmp_path / "run", new, tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.equals(schema.LABELS)
    rows = table.to_pylist()
    assert [row["question"] for row in rows[:NUM_NEW]] == [f"new thing {i} [{w}]" for i, w in _words(NUM_NEW)]
    assert (rows[0]["id"], rows[0]["label"]) == (rows[NUM_NEW]["id"], rows[NUM_NEW]["label"])
    assert {row["passes"] for row in rows} == {None}
    assert "data.dev" in rows[0]["why"]
    assert rows[-1]["label"] is None
    assert "max_model_len" in rows[-1]["why"]
    assert (done.num_rows, done.num_labels, done.num_passed) == (NUM_NEW + 2, NUM_NEW + 1, None)
    assert "data.dev" in render(done)


@pytest.mark.usefixtures("without_ray")
def test_label_passes_rows_up_to_a_threshold_that_the_dev_fold_certifies(root: Path, tmp_path: Path, new: Path) -> None:
    done = label(root, new, tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    found = done.certificate
    assert found.tau is not None
    assert found.lower_bound >= 0.6
    for row in rows:
        assert row["passes"] is (row["confidence"] is not None and row["confidence"] <= found.tau)
    assert 0 < sum(row["passes"] for row in rows) == done.num_passed
    dev = rows_of(root, f"{CERTIFICATE}/dev", schema.JUSTIFIED)
    gold = {row["id"]: row["answer"] for row in rows_of(root, "data/dev_gold", schema.GOLD)}
    below = [row for row in dev if row["confidence"] is not None and row["confidence"] <= found.tau]
    assert len(below) == found.num_rows
    assert sum(row["label"] == gold[row["id"]] for row in below) == found.num_correct
    assert metrics_of(root, f"{CERTIFICATE}/certificate")["tau"] == found.tau


@pytest.mark.usefixtures("without_ray")
def test_label_done_before_answers_nothing_again(root: Path, tmp_path: Path, new: Path) -> None:
    first = label(root, new, tmp_path / "out.parquet")
    before = stamps_under(root)
    with pytest.raises(UserError, match="--force"):
        label(root, new, tmp_path / "out.parquet")
    again = label(root, new, tmp_path / "again.parquet")
    label(root, new, tmp_path / "again.csv")
    assert stamps_under(root) == before
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "out.parquet").read_bytes()
    assert again.certificate == first.certificate
    with (tmp_path / "again.csv").open(newline="", encoding="utf-8") as file:
        passes = [row["passes"] for row in csv.DictReader(file)]
    stored = pq.read_table(tmp_path / "out.parquet").column("passes").to_pylist()
    assert passes == [str(value).lower() for value in stored]


@pytest.mark.usefixtures("without_ray")
def test_label_stopped_half_way_goes_on_with_the_parts_that_are_missing(
    root: Path, tmp_path: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed: list[str] = []

    def stop(self: Run, kind: str, **fields: object) -> None:
        own(self, kind, **fields)
        committed.extend([kind] * (kind == "part_committed"))
        if len(committed) == 3:
            raise KeyboardInterrupt

    own = Run.event
    monkeypatch.setattr(Run, "event", stop)
    with pytest.raises(KeyboardInterrupt):
        label(root, new, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()
    halfway = parts_under(root, "labels")
    assert len(halfway) > 3
    monkeypatch.setattr(Run, "event", own)
    before = stamps_under(root, "labels")
    done = label(root, new, tmp_path / "out.parquet")
    assert done.num_rows == NUM_NEW + 2
    after = stamps_under(root, "labels")
    assert {path: at for path, at in after.items() if path in before and path.endswith(".parquet")} == {
        path: at for path, at in before.items() if path.endswith(".parquet")
    }


@pytest.mark.usefixtures("without_ray")
def test_label_refuses_a_round_that_is_not_there_and_a_name_without_a_format(
    root: Path, tmp_path: Path, new: Path
) -> None:
    with pytest.raises(UserError, match="says no format"):
        label(root, new, tmp_path / "out.txt")
    with pytest.raises(UserError, match=r"has no model of round 7; rounds with one: 0, 1\."):
        label(root, new, tmp_path / "out.csv", number=7)


@pytest.mark.usefixtures("without_ray")
def test_label_by_the_warm_up_is_another_model_with_its_own_certificate(root: Path, tmp_path: Path, new: Path) -> None:
    label(root, new, tmp_path / "last.parquet")
    label(root, new, tmp_path / "first.parquet", number=0)
    first, last = (pq.read_table(tmp_path / f"{name}.parquet").column("label") for name in ("first", "last"))
    assert first != last
    assert metrics_of(root, CERTIFICATE.replace("0001", "0000") + "/certificate")["num_dev"] == 80


@pytest.mark.usefixtures("without_ray")
def test_label_command_prints_what_passed_and_what_that_means(
    root: Path, tmp_path: Path, new: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "labels.csv"
    assert cli.main(["label", str(root), str(new), "-o", str(out)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    with out.open(newline="", encoding="utf-8") as file:
        passed = [row["passes"] for row in csv.DictReader(file)].count("true")
    assert f"{NUM_NEW + 2} rows, {NUM_NEW + 1} with a label, {passed} of them pass" in told
    assert "(asked for: 60.0%, 95.0%)" in told
    assert cli.main(["label", str(root), str(new), "-o", str(out)]) == 2
    assert cli.main(["label", str(root), str(tmp_path / "none.csv"), "-o", str(out), "--force"]) == 2
    assert "no such file" in capsys.readouterr().err


@pytest.mark.slow
def test_label_killed_half_way_makes_every_part_once_and_every_row(root: Path, tmp_path: Path, new: Path) -> None:
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["config"]["speed"]["engine_kwargs"]["seconds_per_request"] = 1.0  # of speed, so that no step is stale
    (root / "manifest.json").write_text(json.dumps(manifest))
    out = tmp_path / "out.parquet"
    command = [sys.executable, "-m", "semievol_ray.cli", "label", str(root), str(new), "-o", str(out)]
    killed = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 90
    while len(list(root.glob("labels/*/round-0001/*.parquet"))) < 2:
        assert killed.poll() is None, killed.communicate()[1]
        assert time.monotonic() < deadline, "no part was committed"
        time.sleep(0.05)
    killed.kill()
    killed.communicate(timeout=30)
    before = stamps_under(root, "labels")
    assert not out.exists()
    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert again.returncode == 0, again.stderr
    kept = {path: at for path, at in stamps_under(root, "labels").items() if path in before and "part-" in path}
    assert kept == {path: at for path, at in before.items() if "part-" in path}
    rows = pq.read_table(out).column("question").to_pylist()
    assert rows[:NUM_NEW] == [f"new thing {i} [{word}]" for i, word in _words(NUM_NEW)]
    assert len(rows) == NUM_NEW + 2


def _words(num: int) -> list[tuple[int, str]]:
    return [(i, ("person", "animal", "plant", "food")[i % 4]) for i in range(num)]
