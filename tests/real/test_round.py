"""One whole round as a user runs it: real vLLM, DeepSpeed, MiniLM and weights, through the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from semievol_ray import schema
from semievol_ray.runs import Step, read_events, read_steps

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NUM_POOL = 40


def committed(root: Path) -> dict[str, dict[str, object]]:
    return {name: record["committed"]["metrics"] for name, record in read_steps(str(root))}


def step(root: Path, name: str) -> Step:
    record = dict(read_steps(str(root)))[name]
    return Step(f"{root}/{name}", name, tuple(record["parts"]))


def rows(root: Path, name: str, columns: object) -> list[dict[str, object]]:
    found = step(root, name)
    return [row for part in found.parts for row in found.read_part(part, columns).to_pylist()]


def test_round_real_engines_fine_tuning_beats_untouched_model(finished: tuple[Path, str]) -> None:
    metrics = committed(finished[0])
    untouched, labels = metrics["base/evaluate"]["accuracy"], metrics["rounds/0000/evaluate"]["accuracy"]
    evolved = metrics["rounds/0001/evaluate"]["accuracy"]
    assert labels > untouched  # 24 labels lift it from about 10 to about 50 percent
    assert evolved > untouched
    assert metrics["rounds/0000/train"]["train_loss"] < 5.0


def test_round_real_engines_what_was_saved_gives_the_logits_of_the_process_that_trained_it(
    finished: tuple[Path, str],
) -> None:
    metrics = committed(finished[0])
    for name in ("rounds/0000/train", "rounds/0001/train"):
        assert metrics[name]["logit_shift"] < 1e-3
        assert metrics[name]["reopen_seconds"] > 0
        assert not list((finished[0] / name).glob("logits*"))


def test_round_real_engines_every_row_has_one_decision(finished: tuple[Path, str]) -> None:
    pool = [row["id"] for row in rows(finished[0], "data/unlabeled", schema.UNLABELED)]
    selection = rows(finished[0], "rounds/0001/select", schema.SELECTION)
    assert [row["id"] for row in selection] == pool
    assert len(set(pool)) == NUM_POOL
    tau = committed(finished[0])["rounds/0001/select"]["tau"]
    for row in selection:
        sure = row["confidence"] is not None and row["label"] is not None and row["confidence"] <= tau
        assert (row["decision"] == "accepted") == sure


def test_round_real_engines_demonstrations_are_labeled_rows(finished: tuple[Path, str]) -> None:
    labeled = {row["id"] for row in rows(finished[0], "data/labeled", schema.LABELED)}
    shown = rows(finished[0], "rounds/0001/retrieve", schema.DEMONSTRATIONS)
    assert all(set(row["demonstration_ids"]) <= labeled and len(row["demonstration_ids"]) == 3 for row in shown)
    assert all(row["scores"] == sorted(row["scores"], reverse=True) for row in shown)


def test_round_real_engines_each_engine_starts_once(finished: tuple[Path, str]) -> None:
    sessions = [e["session"] for e in read_events(str(finished[0])) if e["kind"] == "session_started"]
    assert sessions == ["round-1 base", "round-1 warm", "evaluate warm"]


def test_round_real_engines_summary_and_status_and_explain_read_it(finished: tuple[Path, str]) -> None:
    root, printed = finished
    assert "SemiEvol - labels only" in printed
    assert str(root) in printed
    command = [sys.executable, "-m", "semievol_ray.cli"]
    status = subprocess.run([*command, "status", str(root), "--json"], capture_output=True, text=True, check=True)
    assert "rounds/0001/evaluate" in json.dumps(json.loads(status.stdout))
    row = rows(root, "rounds/0001/select", schema.SELECTION)[0]
    told = subprocess.run([*command, "explain", str(root), str(row["id"])], capture_output=True, text=True, check=True)
    assert str(row["decision"]) in told.stdout
