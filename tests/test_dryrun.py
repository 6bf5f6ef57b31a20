"""`semievol run --dry-run`: what it shows of new, half-done and finished runs, and that it leaves them as they were."""

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from semievol_ray import cli, configfile, dryrun, storage
from semievol_ray.errors import DriftError, RunInUseError
from semievol_ray.progress import Progress
from semievol_ray.runs import Run
from tests.conftest import ScriptedRun
from tests.rundirs import changed, do_run, run_tree


def looked_at(tree: dict[str, object], root: Path) -> dryrun.DryRun:
    return dryrun.dry_run(configfile.parse(tree, "test"), str(root), Progress(quiet=True))


def files(folder: Path) -> dict[str, float]:
    return {str(path): path.stat().st_mtime for path in sorted(folder.rglob("*"))}


@pytest.mark.usefixtures("without_ray")
def test_dry_run_of_a_new_run_counts_its_rows_and_leaves_nothing(tmp_path: Path) -> None:
    tree = run_tree(tmp_path, labeled=20, unlabeled=32, test=8)
    before = files(tmp_path)

    found = looked_at(tree, tmp_path / "run")

    assert files(tmp_path) == before
    rows = {step.name: step.rows for step in found.steps}
    assert rows["rounds/0001/drafts/base_1"] == 32
    assert rows["rounds/0001/train"] == 20 + 16
    assert {step.state for step in found.steps} == {dryrun.OPEN}
    assert found.first == "data/test"


@pytest.mark.usefixtures("without_ray")
def test_dry_run_of_a_run_in_a_store_leaves_no_object(s3_root: str, tmp_path: Path) -> None:
    found = dryrun.dry_run(
        configfile.parse(run_tree(tmp_path, labeled=8, unlabeled=16), "test"), s3_root, Progress(quiet=True)
    )

    assert {step.rows for step in found.steps if "drafts" in step.name} == {16}
    folder, _, name = s3_root.rpartition("/")
    assert [path for path in storage.sizes(folder) if path.startswith(name)] == []


@pytest.mark.usefixtures("without_ray")
def test_dry_run_shows_what_is_done_and_where_the_run_would_go_on(tmp_path: Path) -> None:
    tree, root = run_tree(tmp_path, labeled=20, unlabeled=32, test=8), tmp_path / "run"
    do_run(tree, root)
    for name in ("select", "examples", "train", "evaluate"):
        shutil.rmtree(root / "rounds/0001" / name)
    step = root / "rounds/0001/justify"
    (step / "part-00001.parquet").unlink()
    record = (step / "step.json").read_text()
    (step / "step.json").write_text(record[: record.index(',\n "committed"')] + "\n}")
    before = files(root)

    found = looked_at(tree, root)

    assert files(root) == before
    states = {step.name: step.state for step in found.steps}
    assert states["rounds/0001/drafts/warm_0"] == dryrun.DONE
    assert states["rounds/0001/justify"] == "3 of 4 parts"
    assert states["rounds/0001/select"] == dryrun.OPEN
    assert found.first == "rounds/0001/justify"


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("key", ["method.justify.max_tokens", "data.labeled"], ids=["method", "data"])
def test_dry_run_refuses_a_changed_setting_as_the_run_would(key: str, tmp_path: Path) -> None:
    tree, root = run_tree(tmp_path, labeled=20, unlabeled=32, test=8), tmp_path / "run"
    do_run(tree, root)
    value = 5 if key.startswith("method") else {"path": str(tmp_path / "labeled.csv"), "sample": 12}

    with pytest.raises(DriftError, match="Nothing was changed"):
        looked_at(changed(tree, key, value), root)


@pytest.mark.usefixtures("without_ray")
def test_dry_run_of_a_run_under_way_is_refused(tmp_path: Path) -> None:
    tree = run_tree(tmp_path, labeled=4, unlabeled=4)
    with Run.open(str(tmp_path / "run"), {"name": "small"}), pytest.raises(RunInUseError, match="in use by"):
        looked_at(tree, tmp_path / "run")


def test_dry_run_of_a_finished_run_says_so(scripted_run: ScriptedRun, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(scripted_run.root)

    assert cli.main(["run", str(scripted_run.config), "--run", str(scripted_run.root), "--dry-run"]) == 0

    assert files(scripted_run.root) == before
    assert "# This run is finished" in capsys.readouterr().out


@pytest.mark.parametrize("verb", [["run", "--dry-run"], ["plan"]], ids=["dry run", "plan"])
def test_address_at_which_no_cluster_answers_is_told_within_seconds(verb: list[str], config_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # free again when the block ends
    before = files(config_path.parent)
    command = [sys.executable, "-m", "semievol_ray.cli", *verb, str(config_path), "--address", f"127.0.0.1:{port}"]

    done = subprocess.run(command, cwd=config_path.parent, capture_output=True, text=True, timeout=100)

    assert done.returncode == 2, done.stderr
    assert f"no Ray cluster answers at 127.0.0.1:{port}: connection refused" in " ".join(done.stderr.split())
    assert files(config_path.parent).keys() - before.keys() <= {str(config_path.parent / "runs")}


@pytest.mark.usefixtures("small_ray")
def test_dry_run_of_what_does_not_fit_ends_with_2(config_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = config_path.parent / "run"

    assert cli.main(["run", str(config_path), "--run", str(root), "--dry-run", "-o", "speed.num_replicas=50"]) == 2

    assert "speed.num_replicas 50 does not fit" in capsys.readouterr().err
    assert sorted(path.name for path in config_path.parent.iterdir() if path.is_dir()) == []
