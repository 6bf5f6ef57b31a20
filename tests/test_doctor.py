"""`semievol doctor` through the command line: this machine, a cluster of two nodes, an address that is none."""

import json
import os
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from semievol_ray import cli, doctor
from semievol_ray.machine import Gpu, Machine
from semievol_ray.problems import Gravity, Kind, Problem
from semievol_ray.stages import nodes
from semievol_ray.stages.nodes import DRIVER, NodeReport
from tests.conftest import write_config
from tests.test_problems import MACHINE


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns, and no cluster in the environment."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def node(name: str, machine: Machine | None, **told: Any) -> NodeReport:
    return NodeReport(name, 8, 2, machine, **told)


def test_this_machine_is_told_in_80_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["doctor", "--storage", str(tmp_path)])
    shown = capsys.readouterr().out

    assert code == 0
    assert f" {version('ray')}\n" in shown
    assert max(len(line) for line in shown.splitlines() if "/" not in line) <= 80
    assert list(tmp_path.iterdir()) == []


def test_json_names_what_the_table_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--storage", str(tmp_path), "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    assert found["storage"] == str(tmp_path)
    assert found["nodes"][0]["machine"]["versions"]["torch"] == version("torch")


def test_every_node_has_a_table_and_equal_versions_stand_once() -> None:
    gpu = Gpu("NVIDIA H200 with a name that is longer than any that was sold so far", 150_754_820_096)
    machine = Machine(**{**MACHINE.__dict__, "gpus": (gpu, gpu), "driver": "570.86", "cuda": "12.8"})
    problem = Problem(Gravity.ERROR, Kind.CLOCK, "node b: " + "word " * 40)
    reports = (node("a", machine), node("b", machine), node("c", None, silent="it did not answer in 60 seconds"))
    shown = doctor.render(doctor.Diagnosis("10.0.0.1:6379", None, reports, (problem,)))

    assert max(map(len, shown.splitlines())) <= 80
    assert "2 x NVIDIA H200" in shown
    assert "570.86 (CUDA 12.8)" in shown
    assert shown.count("2.60.0") == 1
    assert "  versions       as a" in shown
    assert "it did not answer in 60 seconds" in shown
    assert "\nerror: node b: word word" in shown


def test_configuration_that_does_not_fit_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, speed={"num_replicas": 4000})

    assert cli.main(["doctor", "--config", str(config)]) == 1
    shown = capsys.readouterr()
    assert "speed.num_replicas 4000 does not fit: 4000 x" in " ".join(shown.out.split())
    assert "Traceback" not in shown.err


def test_configuration_is_judged_with_the_overrides_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(write_config(tmp_path, speed={"num_replicas": 4000}))

    assert cli.main(["doctor", "--config", config, "-o", "speed.num_replicas=1"]) == 0
    assert cli.main(["doctor", "--config", config, "-o", "speed.num_replicas=3000"]) == 1
    assert "speed.num_replicas 3000 does not fit" in " ".join(capsys.readouterr().out.split())


def test_override_of_no_configuration_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "-o", "speed.num_replicas=1"]) == 2
    assert "--config" in capsys.readouterr().err


def test_folder_that_is_not_there_is_told_and_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "no" / "folder"

    assert cli.main(["doctor", "--storage", str(missing)]) == 1
    assert "there is no folder" in capsys.readouterr().out
    assert not missing.parent.exists()


def test_machine_without_ray_is_told_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("semievol_ray.doctor.find_spec", lambda _: None)

    assert cli.main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "pip install 'semievol-ray[cpu]'" in shown
    assert "python" in shown


def test_address_that_does_not_answer_is_refused_within_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    command = [sys.executable, "-m", "semievol_ray.cli", "doctor", "--address", address]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert time.monotonic() - began < 12
    assert done.returncode == 2
    assert f"no Ray cluster answers at {address}: connection refused." in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_two_nodes_of_which_one_has_another_peft(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    other = tmp_path / "other" / "peft-9.9.9.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 9.9.9\n")
    (tmp_path / "runs").mkdir()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": str(other.parent)})
        command = [sys.executable, "-m", "semievol_ray.cli", "doctor", "--address", cluster.address, "--json"]
        done = subprocess.run(
            [*command, "--storage", str(tmp_path / "runs")],
            capture_output=True, text=True, check=False, timeout=120, env={**os.environ, "COLUMNS": "80"},
        )  # fmt: skip
    finally:
        cluster.shutdown()

    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    (driver, *reports) = found["nodes"]
    assert driver["node"] == "driver"
    assert sorted(report["machine"]["versions"]["peft"] for report in reports) == sorted([version("peft"), "9.9.9"])
    assert [report["unread"] for report in found["nodes"]] == [{}, {}, {}]
    errors = [problem["text"] for problem in found["problems"] if problem["gravity"] == "error"]
    assert len(errors) == 1
    assert errors[0].startswith("peft differs between nodes: ")
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize("has_runs", [False, True])
def test_node_with_a_disk_of_its_own_keeps_no_token_and_no_empty_folder(tmp_path: Path, has_runs: bool) -> None:
    root = tmp_path / "runs"
    folder = f"{root}/.doctor-1"
    assert nodes._written(folder, "n") == {}
    assert list(nodes._unread(folder, ["n", DRIVER])) == [DRIVER]
    if has_runs:
        (root / "run").mkdir()

    nodes._swept(folder)

    assert not Path(folder).exists()
    assert root.exists() == has_runs
