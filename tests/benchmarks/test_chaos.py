"""Chaos judges rightly (a lost, doubled or rewritten row is seen), can be had again, and a run survives every kind."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from benchmarks import chaos_files, chaos_processes, chaos_results
from benchmarks.chaos_files import Holding
from benchmarks.chaos_plan import Kind, plan, quick_plans
from semievol_ray import storage

ROOT = Path(__file__).parents[2]
RUN = {"engine": "scripted", "seed": 0, "number": 0, "commit": "a", "kinds": ["actor"], "seconds": 12.0, "wrong": ""}
GOOD: dict[str, Any] = {**RUN, **dict.fromkeys(chaos_results.COUNTED.values(), 0)}


def write_part(root: Path, part: str, ids: list[str]) -> None:
    storage.create_table(str(root / f"{part}.parquet"), pa.table({"id": ids}))


@pytest.fixture
def held(tmp_path: Path) -> tuple[Path, Holding]:
    """A folder with two parts of one table, and what it holds."""
    write_part(tmp_path, "drafts/part-0", ["a", "b"])
    write_part(tmp_path, "drafts/part-1", ["c"])
    return tmp_path, chaos_files.holding(tmp_path)


@pytest.mark.parametrize(("ids", "lost", "twice"), [(["c"], 0, 0), ([], 1, 0), (["c", "a"], 0, 1), (["d"], 1, 1)])
def test_rows_in_another_part_than_they_should_be_are_lost_or_twice(
    held: tuple[Path, Holding], ids: list[str], lost: int, twice: int
) -> None:
    root, expected = held
    (root / "drafts/part-1.parquet").unlink()
    write_part(root, "drafts/part-1", ids)

    found = chaos_files.differences(chaos_files.holding(root), expected, exact=True)

    assert (found.rows_lost, found.rows_twice) == (lost, twice)
    assert found.parts_different == (ids != ["c"])


def test_part_written_again_with_the_same_rows_is_changed(held: tuple[Path, Holding]) -> None:
    root, before = held
    (root / "drafts/part-1.parquet").unlink()
    time.sleep(0.01)
    write_part(root, "drafts/part-1", ["c"])

    assert chaos_files.changed(before, chaos_files.holding(root)) == 1


def test_part_that_came_later_landed_and_changed_nothing(held: tuple[Path, Holding]) -> None:
    root, before = held
    write_part(root, "drafts/part-2", ["e"])
    after = chaos_files.committed(root)

    assert (chaos_files.changed(before, after), chaos_files.landed(before, after)) == (0, 1)


def test_parts_that_stand_only_until_the_pool_is_cut_are_not_missed(held: tuple[Path, Holding]) -> None:
    root, before = held
    write_part(root, "data/kept/part-0", ["a"])

    assert chaos_files.committed(root).parts == before.parts


def test_examples_of_an_engine_that_samples_may_be_fewer_but_none_twice(held: tuple[Path, Holding]) -> None:
    _, one = held
    expected = replace(one, rows={"rounds/0001/examples": Counter("abc")})
    found = replace(one, rows={"rounds/0001/examples": Counter("aab")})

    assert chaos_files.differences(found, expected, exact=False) == chaos_files.Differences(rows_twice=1)


def test_plans_of_a_seed_are_the_same_and_begin_with_every_kind_in_turn() -> None:
    plans = [plan(3, number) for number in range(len(Kind))]

    assert plans == [plan(3, number) for number in range(len(Kind))]
    assert {each.strikes[0].kind for each in plans} == set(Kind)
    assert sorted(s.kind for each in quick_plans(0) for s in each.strikes) == sorted(Kind)
    assert all(
        [s.moment for s in p.strikes] == sorted(s.moment for s in p.strikes) for p in map(plan, [1] * 30, range(30))
    )


def test_folder_that_vanishes_while_parts_are_looked_for_is_not_minded(
    held: tuple[Path, Holding], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, before = held
    (root / "data/kept").mkdir(parents=True)
    scan = os.scandir

    def scanned(path: Any) -> Any:
        if str(path).endswith("kept"):
            (root / "data/kept").rmdir()
        return scan(path)

    monkeypatch.setattr(os, "scandir", scanned)

    assert chaos_files.parts_of(root) == sorted(before.parts)
    assert not (root / "data/kept").exists()


def test_results_count_every_run_and_say_of_which_commit(tmp_path: Path) -> None:
    path = tmp_path / "chaos.json"
    for run in (GOOD, {**GOOD, "commit": "b", "number": 1, "rows_lost": 2, "kinds": ["head", "node"]}):
        chaos_results.add(path, "chaos", run)
    written = json.loads(path.read_text())

    assert written["runs_by_commit"] == {"a": 1, "b": 1}
    assert (written["metrics"]["scripted runs"], written["metrics"]["scripted head strikes"]) == (2, 1)
    assert written["targets"]["scripted rows lost"] == {"target": 0, "value": 2, "met": False}
    runs = chaos_results.recorded(path)
    assert chaos_results.is_recorded(runs, engine="scripted", seed=0, number=1)
    assert not chaos_results.is_recorded(runs, engine="vllm", seed=0, number=1)


def test_process_of_someone_else_is_not_signalled() -> None:
    ours = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])

    assert chaos_processes.send([os.getppid()], chaos_processes.signal.SIGTERM) == []
    chaos_processes.kill([ours.pid])
    assert ours.wait() in (-9, 0)
    assert not chaos_processes.is_alive(ours.pid)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_runs_struck_by_every_kind_end_with_the_files_of_undisturbed_ones(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.chaos", "--quick", "--out", str(tmp_path / "chaos.json")]
    done = subprocess.run(
        [*command, "--work", str(tmp_path / "work")], cwd=ROOT, capture_output=True, text=True, timeout=590, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    written = json.loads((tmp_path / "chaos.json").read_text())
    assert all(written["metrics"][f"scripted {kind} strikes"] for kind in Kind), done.stdout
    assert all(target["met"] for target in written["targets"].values())
