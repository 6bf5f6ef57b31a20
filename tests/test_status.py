import json
import os
import shutil
import socket
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pytest

from semievol_ray import cli, inventory, lease
from semievol_ray.errors import NothingAcceptedError, StorageError
from semievol_ray.lease import Holder, Lease
from semievol_ray.status import RunStatus, State, status
from semievol_ray.statuslines import render, short_count, size
from tests import rundirs
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


@pytest.mark.usefixtures("without_ray")
def test_status_of_a_run_that_its_guard_stopped_says_why_until_it_goes_on(tmp_path: Path) -> None:
    tree, root = rundirs.run_tree(tmp_path, labeled=8, unlabeled=16), tmp_path / "run"
    with pytest.raises(NothingAcceptedError):
        rundirs.do_run(rundirs.changed(tree, "guard", {"min_accepted": 1000}), root)
    found = status(str(root))
    assert "guard.min_accepted is 1000" in (found.stopped or "")
    assert "it stopped: round 1 stops before training" in render(found)
    assert max(map(len, render(found).splitlines())) <= 80 + len(str(root))

    rundirs.do_run(tree, root)

    assert status(str(root)).stopped is None


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


def looked_at(root: Path, *events: dict[str, object]) -> RunStatus:
    with (root / "events.jsonl").open("a") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)
    return status(str(root))


def test_status_of_a_held_run_without_events_for_minutes_says_so(copied_run: Path) -> None:
    lines = (copied_run / "events.jsonl").read_text().splitlines()
    long_ago = [{**json.loads(line), "time": "2026-01-01T10:00:00.000000+00:00"} for line in lines]
    (copied_run / "events.jsonl").write_text("")
    (copied_run / "rounds/0001/evaluate/step.json").unlink()
    held = Lease.take(str(copied_run))
    try:
        found = looked_at(copied_run, *long_ago)
    finally:
        held.close()

    assert found.is_silent
    assert "silent: no event for" in render(found)
    assert not status(str(copied_run)).is_silent, "nobody holds it any more"


def test_status_of_a_session_under_way_tells_pace_time_left_and_troubles(copied_run: Path) -> None:
    step = copied_run / "rounds/0001/drafts/warm_3"
    record = json.loads((step / "step.json").read_text())
    del record["committed"]
    (step / "step.json").write_text(json.dumps(record))
    (step / "part-00001.parquet").unlink()
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    told = {"step": "rounds/0001/drafts/warm_3", "part": "part-00000", "replica": "a" * 32, "node": "b" * 56}
    figures = {"num_rows": 32, "num_errors": 1, "first_error": "too long", "num_tokens": 64, "num_prompt_tokens": 640}
    figures |= {"num_looked_up": 640, "num_found": 320}
    held = Lease.take(str(copied_run))
    try:
        found = looked_at(
            copied_run,
            {"time": now, "kind": "session_started", "fence": 9, "session": "s", "jobs": [told["step"]]},
            {"time": now, "kind": "engine_died", "fence": 9, "seen": "CUDA out of memory"},
            {"time": now, "kind": "part_committed", "fence": 9, **told, **figures, "seconds": 16.0},
        )
    finally:
        held.close()

    drafts = next(s for s in found.steps if s.name == "rounds/0001/drafts/warm_3")
    assert found.pace is not None
    assert found.pace.rows_per_second == pytest.approx(2.0)
    assert drafts.rows_per_second == pytest.approx(2.0)
    assert drafts.seconds_left == pytest.approx(33 / 2 / 2, rel=0.5)
    text = render(found)
    assert "2.0 rows/s, 40.0 prompt + 4.0 generated tokens/s" in text
    assert "50.0% of the prompt tokens came from the prefix cache" in text
    assert "replica aaaaaaaa on node bbbbbbbb" in text
    assert "engine_died: 1" in text
    assert "CUDA out of memory" in text
    assert "failed rows:" in text
    assert max(len(line) for line in text.splitlines()[2:]) <= 80


def test_status_knows_a_driver_elsewhere_by_its_renewals(copied_run: Path) -> None:
    newest = lease.newest_holder(str(copied_run))
    assert newest is not None
    path = copied_run / f"lease/{newest.fence + 1:06d}.json"
    path.write_text(json.dumps(asdict(Holder(newest.fence + 1, "elsewhere", 77, "123", counter=4))))
    first = status(str(copied_run))
    path.write_text(json.dumps(asdict(Holder(newest.fence + 1, "elsewhere", 77, "123", counter=5))))

    assert first.running is None
    assert status(str(copied_run), first).running is True


def test_watch_ends_when_the_run_has_finished(scripted_run: ScriptedRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", str(scripted_run.root), "--watch", "5", "--json"]) == 0

    assert json.loads(capsys.readouterr().out)["finished"] is True


def test_disk_of_a_run_is_the_sum_of_its_files(scripted_run: ScriptedRun) -> None:
    found = status(str(scripted_run.root))

    assert found.num_bytes == sum(p.stat().st_size for p in scripted_run.root.rglob("*") if p.is_file())
    assert all(step.num_bytes > 0 for step in found.steps)
    assert sum(step.num_bytes for step in found.steps) < found.num_bytes


def test_fine_tuning_under_way_shows_its_optimizer_steps(copied_run: Path) -> None:
    step = copied_run / "rounds/0001/train"
    record = json.loads((step / "step.json").read_text())
    del record["committed"]
    (step / "step.json").write_text(json.dumps(record))
    (step / "curve.jsonl").write_text('{"step": 30, "num_steps": 120, "loss": 0.5}\n')

    found = status(str(copied_run))

    assert next((s.parts_done, s.parts_total) for s in found.steps if s.name == "rounds/0001/train") == (30, 120)
    assert "30/120" in render(found)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (9_999, "9,999"), (12_345, "12.3k"), (999_900, "1.0M"), (99_950, "100k"), (10_000_000, "10.0M")],
)
def test_short_count_stays_within_five_characters(value: int, text: str) -> None:
    assert short_count(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (999, "999 B"), (1_500, "1.5 kB"), (99_600, "100 kB"), (2_000_000_000, "2.0 GB")]
)
def test_size_is_in_decimal_units(value: int, text: str) -> None:
    assert size(value) == text


def test_status_changes_nothing(copied_run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copied_run.rglob("*")}

    status(str(copied_run))

    assert {path: path.stat().st_mtime_ns for path in copied_run.rglob("*")} == before


def test_status_of_a_folder_that_is_no_run_is_a_user_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", str(tmp_path)]) == 2
    assert "is no run directory" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("is_whole_folder", [True, False])
def test_status_leaves_out_a_step_that_goes_while_it_looks(
    copied_run: Path, is_whole_folder: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "data/read"
    gone = Path(shutil.copytree(copied_run / "data/unlabeled", copied_run / name))
    record = json.loads((gone / "step.json").read_text())
    del record["committed"]
    (gone / "step.json").write_text(json.dumps({**record, "name": name}))
    look = inventory.take_inventory

    def looked(root: str) -> inventory.Inventory:
        found = look(root)
        for path in gone.iterdir():
            if is_whole_folder or path.suffix == ".parquet":
                path.unlink()
        return found

    monkeypatch.setattr("semievol_ray.status.take_inventory", looked)
    found = status(str(copied_run))
    assert (name in [step.name for step in found.steps]) == (not is_whole_folder)
    assert all(step.state is State.COMMITTED for step in found.steps if step.name != name)


def test_status_of_a_step_whose_record_is_damaged_still_says_so(copied_run: Path) -> None:
    (copied_run / "data/unlabeled/step.json").write_text("{")
    with pytest.raises(StorageError, match=r"data/unlabeled/step\.json is damaged"):
        status(str(copied_run))


def test_status_goes_on_past_a_part_that_is_damaged(copied_run: Path) -> None:
    step = copied_run / "rounds/0001/select"
    record = json.loads((step / "step.json").read_text())
    del record["committed"]
    (step / "step.json").write_text(json.dumps(record))
    (step / "part-00001.parquet").write_bytes(b"PAR1 and no more")
    (step / "parts.json").unlink()

    found = {s.name: s for s in status(str(copied_run)).steps}["rounds/0001/select"]

    assert (found.parts_done, found.parts_total) == (3, 3)
    assert found.rows is not None


def test_healthy_run_has_no_trouble(scripted_run: ScriptedRun) -> None:
    assert [trouble.kind for trouble in status(str(scripted_run.root)).troubles] == []
