"""The run directory: begin, resume, refuse, commit, and go on after a death."""

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from semievol_ray.errors import DriftError, RunInUseError, RunStopped, StorageError, UserError
from semievol_ray.runs import Run, Step, read_events, read_manifest, read_steps
from semievol_ray.schema import GOLD

SETTINGS: dict[str, Any] = {"theta": 0.5, "task": {"name": "arc", "labels": ("a", "b")}, "exact": True, "k": 3}
INPUTS = {"drafts": "a" * 64}
PARTS = ("part-00000", "part-00001", "part-00002")


def _rows(*answers: str) -> pa.Table:
    return pa.table({"id": [f"row-{i}" for i in range(len(answers))], "answer": list(answers)}, schema=GOLD)


def _select(run: Run, name: str = "rounds/0001/select", **changed: Any) -> Step:
    given: dict[str, Any] = {"settings": SETTINGS, "inputs": INPUTS, "parts": PARTS, **changed}
    return run.step(name, **given)


def _complete(run: Run, step: Step) -> None:
    for part in step.missing_parts():
        step.commit_part(part, _rows("A", part))
    run.commit(step, {"kept": 2})


def test_step_resumed_after_a_part_misses_the_others_in_order(tmp_path: Path) -> None:
    with Run.open(str(tmp_path), {}) as run:
        assert _select(run).commit_part("part-00001", _rows("A"))
    with Run.open(str(tmp_path), {}) as run:
        step = _select(run)
        assert step.missing_parts() == ("part-00000", "part-00002")
        assert step.has_part("part-00001")
        _complete(run, step)
        committed = step.committed()
    assert committed is not None
    assert committed["metrics"] == {"kept": 2}
    assert committed["num_rows"] == 5
    assert [event["kind"] for event in read_events(str(tmp_path))] == [
        "run_started", "step_started", "run_started", "step_resumed", "step_committed"
    ]  # fmt: skip


def test_commit_missing_parts_refuses_and_names_them(tmp_path: Path) -> None:
    with Run.open(str(tmp_path), {}) as run:
        step = _select(run)
        step.commit_part("part-00000", _rows("A"))
        with pytest.raises(RunStopped, match=r"2 of 3 parts are missing.*part-00001, part-00002"):
            run.commit(step, {})
        assert step.committed() is None
        with pytest.raises(UserError, match="rounds/0001/select"):
            step.digest()


def test_commit_damaged_part_refuses_and_names_it(tmp_path: Path) -> None:
    with Run.open(str(tmp_path), {}) as run:
        step = _select(run, parts=["part-00000"])
        Path(step.part_path("part-00000")).write_bytes(b"half a file")
        with pytest.raises(StorageError, match=r"part-00000\.parquet is damaged"):
            run.commit(step, {})


def test_changed_settings_show_each_difference_and_the_ways_on(tmp_path: Path) -> None:
    with Run.open(str(tmp_path), {}) as run:
        _complete(run, _select(run))
        _complete(run, _select(run, "rounds/0001/train"))
        changed = {"theta": 0.6, "task": {"name": "arc", "labels": ("a", "c")}, "exact": 1, "seed": 7}
        with pytest.raises(DriftError) as caught:
            _select(run, settings=changed, inputs={"drafts": "b" * 64})
    told = str(caught.value)
    for line in (
        "settings.theta: 0.5 in the run directory, 0.6 now",
        "settings.task.labels.1: 'b' in the run directory, 'c' now",
        "settings.exact: True in the run directory, 1 now",
        "settings.k: 3 in the run directory, absent now",
        "settings.seed: absent in the run directory, 7 now",
        "inputs.drafts: aaaaaaaaaaaa in the run directory, bbbbbbbbbbbb now",
        "go back to the old value",
        "--run DIR",
        f"delete the folder {tmp_path}/rounds/0001/select and those begun after it: rounds/0001/train",
    ):
        assert line in told
    assert "settings.task.name" not in told


def test_changed_parts_are_drift(tmp_path: Path) -> None:
    with Run.open(str(tmp_path), {}) as run:
        _select(run)
        with pytest.raises(DriftError, match="parts: 3 entries in the run directory, 2 now"):
            _select(run, parts=PARTS[:2])


def test_equal_settings_through_json_are_no_drift(tmp_path: Path) -> None:
    settings = {"labels": ("a", "b"), "theta": 1, "rate": 1e-4, "none": None, "options": {3: "x"}, "odd": float("nan")}
    again = {
        "odd": float("nan"),
        "options": {"3": "x"},
        "labels": ["a", "b"],
        "theta": 1.0,
        "rate": 0.0001,
        "none": None,
    }
    with Run.open(str(tmp_path), {}) as run:
        _select(run, settings=settings)
        step = _select(run, settings=again)
    assert step.missing_parts() == PARTS


def test_numerics_of_the_first_begin_win(tmp_path: Path) -> None:
    with Run.open(str(tmp_path), {}) as run:
        _select(run, numerics={"dtype": "bfloat16"})
        assert _select(run, numerics={"dtype": "float32"}).numerics() == {"dtype": "bfloat16"}


def test_part_committed_twice_the_loser_reads_the_winners(tmp_path: Path) -> None:
    with Run.open(str(tmp_path), {}) as run:
        winner = _select(run)
        loser = pickle.loads(pickle.dumps(winner))
        assert winner.commit_part("part-00000", _rows("A", "B"))
        assert not loser.commit_part("part-00000", _rows("C", "D"))
        assert loser.read_part("part-00000", GOLD).column("answer").to_pylist() == ["A", "B"]


def test_digest_follows_content_and_not_the_directory(tmp_path: Path) -> None:
    digests = []
    for name, answer, adapter in (("a", "A", "1"), ("b", "A", "1"), ("c", "B", "1"), ("d", "A", "2")):
        with Run.open(str(tmp_path / name), {}) as run:
            step = _select(run, parts=["part-00000"], settings={"run": name})
            step.commit_part("part-00000", _rows(answer))
            run.commit(step, {}, {"adapter": adapter})
            digests.append(step.digest())
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_commit_again_keeps_the_first(tmp_path: Path) -> None:
    with Run.open(str(tmp_path), {}) as run:
        step = _select(run)
        _complete(run, step)
        first = step.committed()
        run.commit(step, {"kept": 99})
        assert step.committed() == first


def test_attempts_are_numbered_and_outlive_a_torn_line(tmp_path: Path) -> None:
    with Run.open(str(tmp_path), {}) as run:
        step = _select(run)
        assert step.begin_attempt("part-00000", engine="scripted") == 1
        with Path(step.path, "attempts", "part-00000.jsonl").open("a") as file:
            file.write('{"attempt": 2, "ti')
        assert step.begin_attempt("part-00000") == 3
        assert step.begin_attempt("part-00001") == 1
        assert [attempt["attempt"] for attempt in step.attempts("part-00000")] == [1, 3]
        assert step.attempts("part-00000")[0]["engine"] == "scripted"


def test_manifest_before_any_commit_is_that_of_the_last_open(tmp_path: Path) -> None:
    for model in ("mistaken", "mended"):
        with Run.open(str(tmp_path / "run"), {"name": "run", "config": {"model": model}}):
            pass

    assert read_manifest(str(tmp_path / "run"))["config"] == {"model": "mended"}


def test_manifest_stays_once_a_step_is_committed(tmp_path: Path) -> None:
    with Run.open(str(tmp_path / "run"), {"name": "run", "config": {"model": "a"}}) as run:
        run.commit(run.step("data/test", settings={}, inputs={}, parts=[]), {})
        first = read_manifest(str(tmp_path / "run"))
    with Run.open(str(tmp_path / "run"), {"name": "run", "config": {"model": "b"}}) as run:
        assert run.attempt == 2
        assert Path(run.log_path) == tmp_path / "run" / "logs" / "attempt-0002.log"
        assert Path(run.log_path).parent.is_dir()
    assert read_manifest(str(tmp_path / "run")) == first
    assert first["config"] == {"model": "a"}
    assert {"created", "versions"} <= set(first)


def test_manifest_of_another_folder_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run directory"):
        read_manifest(str(tmp_path))


def test_steps_come_in_the_order_they_began(tmp_path: Path) -> None:
    names = ["rounds/0001/train", "data/test", "rounds/0001/drafts/base_1", "rounds/0000/train"]
    with Run.open(str(tmp_path), {}) as run:
        for name in names:
            _select(run, name)
    assert [name for name, _ in read_steps(str(tmp_path))] == names
    assert [record["name"] for _, record in read_steps(str(tmp_path))] == names


def test_damaged_step_file_is_a_storage_error(tmp_path: Path) -> None:
    with Run.open(str(tmp_path), {}) as run:
        step = _select(run)
        Path(step.path, "step.json").write_text('{"name": ')
        with pytest.raises(StorageError, match=r"select/step\.json is damaged"):
            _select(run)


def test_relative_run_directory_gives_absolute_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Run.open("run", {}) as run:
        assert _select(run).path == str(tmp_path / "run" / "rounds" / "0001" / "select")


def test_run_directory_of_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(StorageError, match=r"local, s3:// or gs://"):
        Run.open("ftp://host/run", {})


def test_driver_taken_over_lands_neither_part_nor_commit(tmp_path: Path) -> None:
    with Run.open(str(tmp_path), {}) as stopped:
        step = _select(stopped)
        for part in PARTS[1:]:
            step.commit_part(part, _rows("A"))
        taken = json.dumps({"fence": 2, "host": "elsewhere", "pid": 1, "pid_started": "1"})
        (tmp_path / "lease" / "000002.json").write_text(taken)
        with pytest.raises(RunInUseError, match="taken over"):
            step.commit_part(PARTS[0], _rows("late"))
        assert step.missing_parts() == PARTS[:1]
        Step(step.path, step.name, PARTS).commit_part(PARTS[0], _rows("by the new driver"))
        with pytest.raises(RunInUseError, match="taken over"):
            stopped.commit(step, {})
        assert step.committed() is None
        with pytest.raises(RunInUseError, match="taken over"):
            _select(stopped, "rounds/0001/train")


DRIVE = """
import sys, time
import pyarrow as pa
from semievol_ray.runs import Run
from semievol_ray.schema import GOLD
run = Run.open(sys.argv[1], {})
step = run.step("data/gold", settings={}, inputs={}, parts=["part-00000", "part-00001"])
step.commit_part("part-00000", pa.table({"id": ["a"], "answer": ["A"]}, schema=GOLD))
print(run.fence, flush=True)
time.sleep(60)
"""


def test_run_of_a_live_process_is_refused_and_after_kill_goes_on(tmp_path: Path) -> None:
    driver = subprocess.Popen([sys.executable, "-c", DRIVE, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert driver.stdout is not None
        fence = int(driver.stdout.readline())
        with pytest.raises(RunInUseError, match=str(driver.pid)):
            Run.open(str(tmp_path), {})
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.communicate()
    with Run.open(str(tmp_path), {}) as run:
        assert run.fence > fence
        step = run.step("data/gold", settings={}, inputs={}, parts=["part-00000", "part-00001"])
        assert step.missing_parts() == ("part-00001",)
        step.commit_part("part-00001", _rows("B"))
        run.commit(step, {})
        assert step.record()["fence"] == fence
        assert step.record()["committed"]["fence"] == run.fence
