"""Whole runs with the scripted engine: the loop, what a second command does, and every way to stop one half-way."""

import csv
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from semievol_ray import configfile, driver, schema, storage
from semievol_ray.core.selection import num_kept
from semievol_ray.engines.adapters import verify_adapter
from semievol_ray.errors import DriftError
from semievol_ray.progress import Progress
from semievol_ray.runs import Step, read_events, read_steps

WORDS = ("person", "animal", "plant", "food")
NUM_LABELED, NUM_POOL, NUM_TEST, PART_ROWS = 24, 72, 20, 8
DRAFTERS = ("base_1", "warm_0")
QUIET = Progress(quiet=True)


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    """One small cluster for every run of this process."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


def _write(path: Path, num: int, *, answers: bool = True) -> None:
    """Questions that the scripted engine can answer by the word in brackets."""
    rows = [(f"{path.stem} thing {i} [{WORDS[i % 4]}]", WORDS[i % 4])[: 2 if answers else 1] for i in range(num)]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("question", "answer")[: 2 if answers else 1], *rows])


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The configuration of every run here, as a person would write it."""
    folder = tmp_path_factory.mktemp("data")
    for name, num in (("labeled", NUM_LABELED), ("unlabeled", NUM_POOL), ("test", NUM_TEST)):
        _write(folder / f"{name}.csv", num)
    return {
        "name": "small",
        "task": "wordnet",
        "data": {name: str(folder / f"{name}.csv") for name in ("labeled", "unlabeled", "test")},
        "model": "scripted",
        "method": {"embedder": "hash", "collaborators": [{"demonstrations": 1}, {"adapter": "warm"}]},
        "numerics": {"engine": "scripted"},
        "speed": {"part_rows": PART_ROWS, "engine_kwargs": {"max_num_seqs": 4}},
    }


def _run(tree: dict[str, Any], root: Path) -> driver.Finished:
    return driver.run(configfile.parse(tree, "test"), str(root), QUIET)


def _changed(tree: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parents, last = path.split(".")
    copy: dict[str, Any] = json.loads(json.dumps(tree))
    inner = copy
    for name in parents:
        inner = inner.setdefault(name, {})
    inner[last] = value
    return copy


@pytest.fixture(scope="module")
def finished(_ray: None, tree: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed; not to be written to."""
    root = tmp_path_factory.mktemp("runs") / "undisturbed"
    _run(tree, root)
    return root


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may spoil."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def _step(root: Path, name: str) -> Step:
    return Step(f"{root}/{name}", name, tuple(json.loads((root / name / "step.json").read_text())["parts"]))


def _rows(root: Path, name: str, columns: Any) -> list[dict[str, Any]]:
    step = _step(root, name)
    return [row for part in step.parts for row in step.read_part(part, columns).to_pylist()]


def _metrics(root: Path, name: str) -> dict[str, Any]:
    committed = _step(root, name).committed()
    assert committed is not None, name
    return dict(committed["metrics"])


def _parts(root: Path, under: str = "") -> dict[str, bytes]:
    """Every part file of a run, by its path inside it."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted((root / under).rglob("*.parquet"))}


def _stamps(root: Path, under: str) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in (root / under).rglob("*") if p.suffix in (".parquet", ".json")}


def test_run_ends_with_every_pool_row_in_one_decision_in_order(finished: Path) -> None:
    pool = [row["id"] for row in _rows(finished, "data/unlabeled", schema.UNLABELED)]
    assert len(pool) == len(set(pool)) == NUM_POOL
    for name in ("justify", "select", *(f"drafts/{c}" for c in DRAFTERS)):
        columns = {"justify": schema.JUSTIFIED, "select": schema.SELECTION}.get(name, schema.DRAFTS)
        assert [row["id"] for row in _rows(finished, f"rounds/0001/{name}", columns)] == pool
    assert {record["name"] for _, record in read_steps(str(finished)) if not record.get("committed")} == set()


def test_run_accepts_theta_of_the_answered_rows_by_their_justifications(finished: Path) -> None:
    justified = {row["id"]: row for row in _rows(finished, "rounds/0001/justify", schema.JUSTIFIED)}
    selected = _rows(finished, "rounds/0001/select", schema.SELECTION)
    values = sorted(row["confidence"] for row in justified.values() if row["confidence"] is not None)
    tau = values[num_kept(0.5, len(values)) - 1]
    assert _metrics(finished, "rounds/0001/select")["tau"] == tau
    for row in selected:
        assert row["label"] == justified[row["id"]]["answer"]
        assert (row["decision"] == "accepted") == (row["confidence"] is not None and row["confidence"] <= tau)
    assert Counter(row["decision"] for row in selected)["accepted"] == num_kept(0.5, len(values))


def test_run_evolves_on_the_labels_and_what_was_accepted_and_nothing_else(finished: Path) -> None:
    selected = _rows(finished, "rounds/0001/select", schema.SELECTION)
    accepted = {row["id"]: row["label"] for row in selected if row["decision"] == "accepted"}
    labeled = {row["id"]: row["answer"] for row in _rows(finished, "data/labeled", schema.LABELED)}
    warm, evolved = (_rows(finished, f"rounds/000{n}/examples", schema.EXAMPLES) for n in (0, 1))
    assert {row["id"]: row["answer"] for row in warm} == labeled
    assert {row["id"]: row["answer"] for row in evolved if row["source"] == "gold"} == labeled
    assert {row["id"]: row["answer"] for row in evolved if row["source"] == "pseudo"} == accepted
    assert len(evolved) == len(labeled) + len(accepted)
    for number in (0, 1):
        assert verify_adapter(f"{finished}/rounds/000{number}/train/adapter")["num_tensors"] > 0


def test_run_measures_base_warm_and_evolved_and_the_pseudo_labels(finished: Path) -> None:
    base, warm, evolved = (
        _metrics(finished, n) for n in ("base/evaluate", "rounds/0000/evaluate", "rounds/0001/evaluate")
    )
    assert {m["num_rows"] for m in (base, warm, evolved)} == {NUM_TEST}
    assert base["accuracy"] < evolved["accuracy"]
    gold = {row["id"]: row["answer"] for row in _rows(finished, "data/gold", schema.GOLD)}
    accepted = [r for r in _rows(finished, "rounds/0001/select", schema.SELECTION) if r["decision"] == "accepted"]
    right = sum(row["label"] == gold[row["id"]] for row in accepted)
    measured = _metrics(finished, "rounds/0001/select")
    assert measured["precision_accepted"] == pytest.approx(right / len(accepted))
    assert measured["precision_accepted"] > measured["precision_all"]


def test_run_events_tell_of_every_part_once(finished: Path) -> None:
    told = [(e["step"], e["part"]) for e in read_events(str(finished)) if e["kind"] == "part_committed"]
    asked = [n for n, _ in read_steps(str(finished)) if n.endswith(("justify", "evaluate")) or "/drafts/" in n]
    assert Counter(told) == {(name, part): 1 for name in asked for part in _step(finished, name).parts}


AGAIN = """
import sys
from semievol_ray import cli
code = cli.main(["run", sys.argv[1], "--run", sys.argv[2]])
print(code, "ray" in sys.modules)
"""


def test_second_command_of_a_finished_run_ends_at_once_without_ray(
    copied: Path, tree: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    before = {p: p.stat().st_mtime_ns for p in copied.rglob("*.parquet")}
    began = time.monotonic()
    again = [sys.executable, "-c", AGAIN, str(tmp_path / "run.yaml"), str(copied)]
    done = subprocess.run(again, capture_output=True, text=True, timeout=60, check=False)
    assert time.monotonic() - began < 5
    assert done.stdout.splitlines()[-1] == "0 False", done.stderr[-2000:]
    assert {p: p.stat().st_mtime_ns for p in copied.rglob("*.parquet")} == before


def test_changed_theta_is_refused_naming_it_and_changes_nothing(copied: Path, tree: dict[str, Any]) -> None:
    before = _parts(copied)
    with pytest.raises(DriftError, match=r"settings\.select\.theta: 0\.5 in the run directory, 0\.25 now") as caught:
        _run(_changed(tree, "method.select.theta", 0.25), copied)
    assert "rounds/0001/select" in str(caught.value)
    assert _parts(copied) == before


def test_change_of_speed_alone_is_no_change(copied: Path, tree: dict[str, Any]) -> None:
    _run(_changed(tree, "speed.part_rows", 5), copied)
    _run(_changed(tree, "speed.num_replicas", 2), copied)


def test_added_collaborator_makes_only_its_own_drafts_anew(copied: Path, tree: dict[str, Any]) -> None:
    more = [*tree["method"]["collaborators"], {"name": "third", "sampling": {"temperature": 0.5}}]
    wider = _changed(tree, "method.collaborators", more)
    drafted = {name: _stamps(copied, f"rounds/0001/drafts/{name}") for name in DRAFTERS}
    with pytest.raises(DriftError, match=r"rounds/0001/justify.*inputs\.drafts/third: absent"):
        _one_line(lambda: _run(wider, copied))
    for name in ("justify", "select", "examples", "train", "evaluate"):
        shutil.rmtree(copied / "rounds/0001" / name)
    _run(wider, copied)
    assert {name: _stamps(copied, f"rounds/0001/drafts/{name}") for name in DRAFTERS} == drafted
    answers = [row["answers"] for row in _rows(copied, "rounds/0001/justify", schema.JUSTIFIED)]
    third = [row["answer"] for row in _rows(copied, "rounds/0001/drafts/third", schema.DRAFTS)]
    assert [a[2] for a in answers] == third


def _one_line(call: Callable[[], object]) -> None:
    try:
        call()
    except DriftError as error:
        raise DriftError(str(error).replace("\n", " ")) from None


def test_deleted_drafts_that_come_back_the_same_leave_the_rest_as_it_is(copied: Path, tree: dict[str, Any]) -> None:
    before, kept = _parts(copied), _stamps(copied, "rounds/0001/justify")
    shutil.rmtree(copied / "rounds/0001/drafts/warm_0")
    _run(tree, copied)
    assert _parts(copied) == before
    assert _stamps(copied, "rounds/0001/justify") == kept


def test_deleted_drafts_that_come_back_otherwise_make_the_justifications_stale(
    copied: Path, tree: dict[str, Any]
) -> None:
    step = _step(copied, "rounds/0001/drafts/warm_0")
    record = {key: value for key, value in step.record().items() if key != "committed"}
    (copied / step.name / "step.json").write_text(json.dumps(record))
    table = step.read_part(step.parts[0], schema.DRAFTS)
    storage.remove(step.part_path(step.parts[0]))
    other = table.set_column(1, "text", [["another sample"] * table.num_rows])
    storage.create_table(step.part_path(step.parts[0]), other.cast(schema.DRAFTS))
    with pytest.raises(DriftError, match=r"rounds/0001/justify.*drafts/warm_0"):
        _one_line(lambda: _run(tree, copied))


@pytest.mark.usefixtures("_ray")
def test_run_without_any_gold_and_without_test_ends_with_unknown_precision(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    _write(tmp_path / "unlabeled.csv", 16, answers=False)
    data = {"labeled": tree["data"]["labeled"], "unlabeled": str(tmp_path / "unlabeled.csv")}
    done = _run(_changed(tree, "data", data), tmp_path / "run")
    assert verify_adapter(done.adapter.path)["num_tensors"] > 0
    measured = _metrics(tmp_path / "run", "rounds/0001/select")
    assert (measured["precision_all"], measured["precision_accepted"]) == (None, None)
    assert measured["num_answered"] == 16
    assert not (tmp_path / "run/base").exists()


def test_run_whose_engines_die_again_and_again_ends_with_the_same_parts(
    finished: Path, tree: dict[str, Any], tmp_path: Path
) -> None:
    _run(_changed(tree, "numerics.engine_kwargs", {"break_every": 60}), tmp_path / "run")
    assert _parts(tmp_path / "run") == _parts(finished)
    tried = [len(s.attempts(p)) for s in [_step(tmp_path / "run", "rounds/0001/drafts/base_1")] for p in s.parts]
    assert max(tried) > 1


@dataclass(frozen=True)
class Disturbed:
    """A run that was killed in the drafts of one collaborator, interrupted in those of the next, and then let be."""

    root: Path
    killed: int
    interrupted: int
    ended: int
    after_kill: dict[str, tuple[int, bytes]]
    after_interrupt: dict[str, tuple[int, bytes]]
    stderr: str


def _snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    return {name: ((root / name).stat().st_mtime_ns, data) for name, data in _parts(root).items()}


def _stopped_at(command: list[str], env: dict[str, str], folder: Path, number: signal.Signals) -> tuple[int, str]:
    """Run the command until some but not all parts are in `folder`, then send it the signal."""
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 90
    while len(storage.names(str(folder), ".parquet")) < 2:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "no part was committed"
        time.sleep(0.01)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert len(storage.names(str(folder), ".parquet")) < NUM_POOL // PART_ROWS
    return process.returncode, told


@pytest.fixture(scope="module")
def disturbed(tree: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    folder = tmp_path_factory.mktemp("disturbed")
    slow = _changed(tree, "numerics.engine_kwargs", {"seconds_per_request": 0.4})
    (folder / "run.yaml").write_text(yaml.safe_dump(slow))
    root = folder / "run"
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "semievol_ray.cli", "run", str(folder / "run.yaml"), "--run", str(root)]
    killed, _ = _stopped_at(command, env, root / "rounds/0001/drafts/base_1", signal.SIGKILL)
    time.sleep(1)  # for what the dead driver's actor still had in hand
    after_kill = _snapshot(root)
    interrupted, told = _stopped_at(command, env, root / "rounds/0001/drafts/warm_0", signal.SIGINT)
    after_interrupt = _snapshot(root)
    last = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    return Disturbed(root, killed, interrupted, last.returncode, after_kill, after_interrupt, told + last.stderr)


def test_killed_and_interrupted_run_ends_with_the_files_of_an_undisturbed_one(
    disturbed: Disturbed, finished: Path
) -> None:
    assert (disturbed.killed, disturbed.ended) == (-signal.SIGKILL, 0), disturbed.stderr[-2000:]
    assert _parts(disturbed.root) == _parts(finished)


def test_parts_committed_before_a_death_are_never_written_again(disturbed: Disturbed) -> None:
    now = _snapshot(disturbed.root)
    assert any("drafts/base_1" in name for name in disturbed.after_kill)
    for before in (disturbed.after_kill, disturbed.after_interrupt):
        assert {name: now[name] for name in before} == before


def test_interrupted_command_exits_130_without_a_traceback_and_goes_on(disturbed: Disturbed) -> None:
    assert disturbed.interrupted == 130, disturbed.stderr[-2000:]
    assert "Traceback" not in disturbed.stderr
