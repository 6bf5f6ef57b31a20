"""Whole runs with the scripted engine: the loop, what a second command does, and every way to stop one half-way."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from semievol_ray import schema, storage
from semievol_ray.core.selection import num_kept
from semievol_ray.engines.adapters import verify_adapter
from semievol_ray.errors import DriftError
from semievol_ray.runs import read_events, read_steps
from tests.rundirs import (
    PART_ROWS,
    changed,
    do_run,
    metrics_of,
    parts_under,
    rows_of,
    run_tree,
    stamps_under,
    step_at,
    write_questions,
)

NUM_LABELED, NUM_POOL, NUM_TEST = 24, 48, 20
DRAFTERS = ("base_1", "warm_0")
NUM_PARTS, SECONDS_PER_REQUEST = 10, 2
"""Of the disturbed run: two parts are in hand at a time, so it takes ten seconds from its first draft to its last."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The configuration of every run here, as a person would write it."""
    folder = tmp_path_factory.mktemp("data")
    return run_tree(folder, labeled=NUM_LABELED, unlabeled=NUM_POOL, test=NUM_TEST)


@pytest.fixture(scope="module")
def finished(small_ray: None, tree: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ARG001
    """A run that nothing disturbed; not to be written to."""
    root = tmp_path_factory.mktemp("runs") / "undisturbed"
    do_run(tree, root)
    return root


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may spoil."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def test_run_ends_with_every_pool_row_in_one_decision_in_order(finished: Path) -> None:
    pool = [row["id"] for row in rows_of(finished, "data/unlabeled", schema.UNLABELED)]
    assert len(pool) == len(set(pool)) == NUM_POOL
    for name in ("justify", "select", *(f"drafts/{c}" for c in DRAFTERS)):
        columns = {"justify": schema.JUSTIFIED, "select": schema.SELECTION}.get(name, schema.DRAFTS)
        assert [row["id"] for row in rows_of(finished, f"rounds/0001/{name}", columns)] == pool
    assert {record["name"] for _, record in read_steps(str(finished)) if not record.get("committed")} == set()


def test_run_accepts_theta_of_the_answered_rows_by_their_justifications(finished: Path) -> None:
    justified = {row["id"]: row for row in rows_of(finished, "rounds/0001/justify", schema.JUSTIFIED)}
    selected = rows_of(finished, "rounds/0001/select", schema.SELECTION)
    values = sorted(row["confidence"] for row in justified.values() if row["confidence"] is not None)
    tau = values[num_kept(0.5, len(values)) - 1]
    assert metrics_of(finished, "rounds/0001/select")["tau"] == tau
    for row in selected:
        assert row["label"] == justified[row["id"]]["answer"]
        assert (row["decision"] == "accepted") == (row["confidence"] is not None and row["confidence"] <= tau)
    assert Counter(row["decision"] for row in selected)["accepted"] == num_kept(0.5, len(values))


def test_run_evolves_on_the_labels_and_what_was_accepted_and_nothing_else(finished: Path) -> None:
    selected = rows_of(finished, "rounds/0001/select", schema.SELECTION)
    accepted = {row["id"]: row["label"] for row in selected if row["decision"] == "accepted"}
    labeled = {row["id"]: row["answer"] for row in rows_of(finished, "data/labeled", schema.LABELED)}
    warm, evolved = (rows_of(finished, f"rounds/000{n}/examples", schema.EXAMPLES) for n in (0, 1))
    assert {row["id"]: row["answer"] for row in warm} == labeled
    assert {row["id"]: row["answer"] for row in evolved if row["source"] == "gold"} == labeled
    assert {row["id"]: row["answer"] for row in evolved if row["source"] == "pseudo"} == accepted
    assert len(evolved) == len(labeled) + len(accepted)
    for number in (0, 1):
        assert verify_adapter(f"{finished}/rounds/000{number}/train/adapter")["num_tensors"] > 0


def test_run_measures_base_warm_and_evolved_and_the_pseudo_labels(finished: Path) -> None:
    base, warm, evolved = (
        metrics_of(finished, n) for n in ("base/evaluate", "rounds/0000/evaluate", "rounds/0001/evaluate")
    )
    assert {m["num_rows"] for m in (base, warm, evolved)} == {NUM_TEST}
    assert base["accuracy"] < evolved["accuracy"]
    gold = {row["id"]: row["answer"] for row in rows_of(finished, "data/gold", schema.GOLD)}
    accepted = [r for r in rows_of(finished, "rounds/0001/select", schema.SELECTION) if r["decision"] == "accepted"]
    right = sum(row["label"] == gold[row["id"]] for row in accepted)
    measured = metrics_of(finished, "rounds/0001/select")
    assert measured["precision_accepted"] == pytest.approx(right / len(accepted))
    assert measured["precision_accepted"] > measured["precision_all"]


def test_run_events_tell_of_every_part_once(finished: Path) -> None:
    told = [(e["step"], e["part"]) for e in read_events(str(finished)) if e["kind"] == "part_committed"]
    asked = [n for n, _ in read_steps(str(finished)) if n.endswith(("justify", "evaluate")) or "/drafts/" in n]
    assert Counter(told) == {(name, part): 1 for name in asked for part in step_at(finished, name).parts}


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
    before = parts_under(copied)
    with pytest.raises(DriftError, match=r"settings\.select\.theta: 0\.5 in the run directory, 0\.25 now") as caught:
        do_run(changed(tree, "method.select.theta", 0.25), copied)
    assert "rounds/0001/select" in str(caught.value)
    assert parts_under(copied) == before


def test_change_of_speed_alone_is_no_change(copied: Path, tree: dict[str, Any]) -> None:
    do_run(changed(tree, "speed.part_rows", 5), copied)
    do_run(changed(tree, "speed.num_replicas", 2), copied)


@pytest.mark.usefixtures("without_ray")
def test_added_collaborator_makes_only_its_own_drafts_anew(copied: Path, tree: dict[str, Any]) -> None:
    more = [*tree["method"]["collaborators"], {"name": "third", "sampling": {"temperature": 0.5}}]
    wider = changed(tree, "method.collaborators", more)
    drafted = {name: stamps_under(copied, f"rounds/0001/drafts/{name}") for name in DRAFTERS}
    with pytest.raises(DriftError, match=r"rounds/0001/justify.*inputs\.drafts/third: absent"):
        _one_line(lambda: do_run(wider, copied))
    for name in ("justify", "select", "examples", "train", "evaluate"):
        shutil.rmtree(copied / "rounds/0001" / name)
    do_run(wider, copied)
    assert {name: stamps_under(copied, f"rounds/0001/drafts/{name}") for name in DRAFTERS} == drafted
    answers = [row["answers"] for row in rows_of(copied, "rounds/0001/justify", schema.JUSTIFIED)]
    third = [row["answer"] for row in rows_of(copied, "rounds/0001/drafts/third", schema.DRAFTS)]
    assert [a[2] for a in answers] == third


def _one_line(call: Callable[[], object]) -> None:
    try:
        call()
    except DriftError as error:
        raise DriftError(str(error).replace("\n", " ")) from None


@pytest.mark.usefixtures("without_ray")
def test_deleted_drafts_that_come_back_the_same_leave_the_rest_as_it_is(copied: Path, tree: dict[str, Any]) -> None:
    before, kept = parts_under(copied), stamps_under(copied, "rounds/0001/justify")
    shutil.rmtree(copied / "rounds/0001/drafts/warm_0")
    do_run(tree, copied)
    assert parts_under(copied) == before
    assert stamps_under(copied, "rounds/0001/justify") == kept


def test_deleted_drafts_that_come_back_otherwise_make_the_justifications_stale(
    copied: Path, tree: dict[str, Any]
) -> None:
    step = step_at(copied, "rounds/0001/drafts/warm_0")
    record = {key: value for key, value in step.record().items() if key != "committed"}
    (copied / step.name / "step.json").write_text(json.dumps(record))
    table = step.read_part(step.parts[0], schema.DRAFTS)
    storage.remove(step.part_path(step.parts[0]))
    other = table.set_column(1, "text", [["another sample"] * table.num_rows])
    storage.create_table(step.part_path(step.parts[0]), other.cast(schema.DRAFTS))
    with pytest.raises(DriftError, match=r"rounds/0001/justify.*drafts/warm_0"):
        _one_line(lambda: do_run(tree, copied))


@pytest.mark.usefixtures("without_ray")
def test_run_without_any_gold_and_without_test_ends_with_unknown_precision(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    write_questions(tmp_path / "unlabeled.csv", 16, answers=False)
    data = {"labeled": tree["data"]["labeled"], "unlabeled": str(tmp_path / "unlabeled.csv")}
    done = do_run(changed(tree, "data", data), tmp_path / "run")
    assert verify_adapter(done.adapter.path)["num_tensors"] > 0
    measured = metrics_of(tmp_path / "run", "rounds/0001/select")
    assert (measured["precision_all"], measured["precision_accepted"]) == (None, None)
    assert measured["num_answered"] == 16
    assert not (tmp_path / "run/base").exists()


def test_run_whose_engines_die_again_and_again_ends_with_the_same_parts(
    finished: Path, tree: dict[str, Any], tmp_path: Path
) -> None:
    do_run(changed(tree, "numerics.engine_kwargs", {"break_every": 45}), tmp_path / "run")
    assert parts_under(tmp_path / "run") == parts_under(finished)
    tried = [len(s.attempts(p)) for s in [step_at(tmp_path / "run", "rounds/0001/drafts/base_1")] for p in s.parts]
    assert max(tried) > 1


@dataclass(frozen=True)
class Disturbed:
    """A run that was killed in the drafts of a collaborator, interrupted in them once more, and then let be."""

    root: Path
    tree: dict[str, Any]
    killed: int
    interrupted: int
    ended: int
    after_kill: dict[str, tuple[int, bytes]]
    after_interrupt: dict[str, tuple[int, bytes]]
    stderr: str


def _snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    return {name: ((root / name).stat().st_mtime_ns, data) for name, data in parts_under(root).items()}


def _reported(root: Path, attempt: int) -> int:
    """How many parts the driver of this attempt has heard of."""
    events = read_events(str(root)) if root.exists() else []
    return sum(e["kind"] == "part_committed" and e["fence"] == attempt for e in events)


def _stopped(
    command: list[str], env: dict[str, str], root: Path, attempt: int, number: signal.Signals
) -> tuple[int, str]:
    """Send the command a signal once its driver has heard of a part; what is left takes it seconds more."""
    slowly = [*command, "-o", f"speed.engine_kwargs.seconds_per_request={SECONDS_PER_REQUEST}"]
    process = subprocess.Popen(slowly, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 90
    while not _reported(root, attempt):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "no part was committed"
        time.sleep(0.01)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert len(storage.names(str(root / "rounds/0001/drafts/base_0"), ".parquet")) < NUM_PARTS
    return process.returncode, told


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    folder = tmp_path_factory.mktemp("disturbed")
    tree = run_tree(folder, labeled=12, unlabeled=NUM_PARTS * PART_ROWS)
    tree["method"]["collaborators"] = [{}, {"adapter": "warm"}]
    (folder / "run.yaml").write_text(yaml.safe_dump(tree))
    root = folder / "run"
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "semievol_ray.cli", "run", str(folder / "run.yaml"), "--run", str(root)]
    killed, _ = _stopped(command, env, root, 1, signal.SIGKILL)
    after_kill = _snapshot(root)
    interrupted, told = _stopped(command, env, root, 2, signal.SIGINT)
    after_interrupt = _snapshot(root)
    last = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    return Disturbed(root, tree, killed, interrupted, last.returncode, after_kill, after_interrupt, told + last.stderr)


@pytest.mark.slow
@pytest.mark.usefixtures("without_ray")
def test_killed_and_interrupted_run_ends_with_the_files_of_an_undisturbed_one(
    disturbed: Disturbed, tmp_path: Path
) -> None:
    assert (disturbed.killed, disturbed.ended) == (-signal.SIGKILL, 0), disturbed.stderr[-2000:]
    do_run(disturbed.tree, tmp_path / "run")
    assert parts_under(disturbed.root) == parts_under(tmp_path / "run")


@pytest.mark.slow
def test_parts_committed_before_a_death_are_never_written_again(disturbed: Disturbed) -> None:
    now = _snapshot(disturbed.root)
    drafted = [
        sum("drafts/base_0" in name for name in stopped)
        for stopped in (disturbed.after_kill, disturbed.after_interrupt, now)
    ]
    assert 0 < drafted[0] < drafted[1] < drafted[2] == NUM_PARTS
    for before in (disturbed.after_kill, disturbed.after_interrupt):
        assert {name: now[name] for name in before} == before


@pytest.mark.slow
def test_interrupted_command_exits_130_without_a_traceback_and_goes_on(disturbed: Disturbed) -> None:
    assert disturbed.interrupted == 130, disturbed.stderr[-2000:]
    assert "Traceback" not in disturbed.stderr
