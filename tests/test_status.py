import json
import os
import socket
from dataclasses import asdict
from pathlib import Path

import pytest

from semievol_ray import cli, lease
from semievol_ray.lease import Holder, Lease
from semievol_ray.status import State, render, status
from tests.conftest import ScriptedRun


def test_status_of_a_finished_run_has_every_step_committed(scripted_run: ScriptedRun) -> None:
    found = status(str(scripted_run.root))

    assert found.finished
    assert found.running is False
    assert {step.state for step in found.steps} == {State.COMMITTED}
    drafts = next(step for step in found.steps if step.name == "rounds/0001/drafts/warm_3")
    assert (drafts.parts_done, drafts.parts_total, drafts.rows, drafts.errors) == (3, 3, 65, 1)
    assert drafts.tokens is not None
    assert drafts.tokens > 64


def test_status_of_a_run_cut_short_counts_what_is_there(copied_run: Path) -> None:
    step = copied_run / "rounds/0001/drafts/warm_3"
    record = json.loads((step / "step.json").read_text())
    del record["committed"]
    (step / "step.json").write_text(json.dumps(record))
    (step / "part-00001.parquet").unlink()
    (copied_run / "rounds/0001/evaluate/step.json").unlink()

    found = {s.name: s for s in status(str(copied_run)).steps}

    drafts = found["rounds/0001/drafts/warm_3"]
    assert (drafts.state, drafts.parts_done, drafts.parts_total, drafts.rows) == (State.UNDER_WAY, 2, 3, 33)
    assert drafts.seconds is None
    assert found["rounds/0001/evaluate"].state is State.NOT_BEGUN


def test_status_lists_planned_steps_in_order_and_others_after(copied_run: Path) -> None:
    extra = copied_run / "evaluations/abcdef01/data"
    extra.mkdir(parents=True)
    (extra / "step.json").write_text((copied_run / "data/test/step.json").read_text())

    names = [step.name for step in status(str(copied_run)).steps]

    assert names[0] == "data/test"
    assert names[-2:] == ["rounds/0001/evaluate", "evaluations/abcdef01/data"]


def test_status_says_whether_the_driver_lives(copied_run: Path) -> None:
    held = Lease.take(str(copied_run))
    try:
        found = status(str(copied_run))
        assert found.running is True
        assert f"running: process {os.getpid()} on host {socket.gethostname()}" in render(found)
    finally:
        held.close()

    assert status(str(copied_run)).running is False


def test_status_of_a_run_held_on_another_host_says_that_it_cannot_know(copied_run: Path) -> None:
    newest = lease.newest_holder(str(copied_run))
    assert newest is not None
    held = Holder(newest.fence + 1, "elsewhere", 77, "123")
    (copied_run / f"lease/{held.fence:06d}.json").write_text(json.dumps(asdict(held)))
    (copied_run / "rounds/0001/evaluate/step.json").unlink()

    found = status(str(copied_run))

    assert found.running is None
    assert "process 77 on host elsewhere" in render(found)


def test_status_fits_eighty_columns(copied_run: Path) -> None:
    steps = render(status(str(copied_run))).splitlines()[2:]

    assert max(len(line) for line in steps) <= 80


def test_status_json_holds_the_same_figures(scripted_run: ScriptedRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", str(scripted_run.root), "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert found["finished"] is True
    assert [step["name"] for step in found["steps"]] == [s.name for s in status(str(scripted_run.root)).steps]
    assert found["steps"][0]["state"] == "committed"


def test_status_changes_nothing(copied_run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copied_run.rglob("*")}

    status(str(copied_run))

    assert {path: path.stat().st_mtime_ns for path in copied_run.rglob("*")} == before


def test_status_of_a_folder_that_is_no_run_is_a_user_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", str(tmp_path)]) == 2
    assert "is no run directory" in " ".join(capsys.readouterr().err.split())
