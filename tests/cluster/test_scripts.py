"""The shell scripts that launchers share: what they start, and how a node leaves."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
TITLE = "ray::MapWorker(MapBatches(EngineWorker)).submit"


def fake(folder: Path, name: str, script: str = "") -> None:
    """A command that writes its line into `called` and does what `script` says."""
    path = folder / name
    path.write_text(f'#!/bin/bash\necho "{name} $*" >> {folder}/called\n{script}\n', encoding="utf-8")
    path.chmod(0o755)


def called(folder: Path) -> list[str]:
    return (folder / "called").read_text(encoding="utf-8").splitlines()


def script(folder: Path, name: str, *arguments: str, **environment: str) -> int:
    path = f"{folder}:{os.environ['PATH']}"
    return subprocess.run(
        [CLUSTER / name, *arguments], env={**os.environ, "PATH": path, **environment}, timeout=30
    ).returncode


@pytest.mark.parametrize("path", sorted(p.relative_to(CLUSTER).as_posix() for p in CLUSTER.rglob("*.sh")))
def test_shell_script_parses_and_can_be_started(path: str) -> None:
    subprocess.run(["bash", "-n", CLUSTER / path], check=True)
    assert os.access(CLUSTER / path, os.X_OK)


@pytest.mark.parametrize(
    ("run", "storage"), [("s3://b/runs/ag", "s3://b/runs"), ("./ag", "."), ("gs://b/ag", "gs://b")]
)
def test_start_asks_the_doctor_and_then_runs(tmp_path: Path, run: str, storage: str) -> None:
    fake(tmp_path, "semievol", "[[ $1 == doctor ]] || exit 130")

    assert script(tmp_path, "start.sh", "c.yaml", run, "h:1") == 130
    assert called(tmp_path) == [
        f"semievol doctor --address h:1 --storage {storage} --config c.yaml",
        f"semievol run c.yaml --address h:1 --run {run}",
    ]


def test_start_has_the_doctor_look_at_the_configuration_as_it_will_run(tmp_path: Path) -> None:
    fake(tmp_path, "semievol")

    more = ["-o", "a=b c", "--deadline", "+3h", "-od=e", "-o", "f={g: h}"]
    assert script(tmp_path, "start.sh", "c.yaml", "s3://b/ag", "h:1", *more) == 0
    assert called(tmp_path) == [
        "semievol doctor --address h:1 --storage s3://b --config c.yaml -o a=b c -od=e -o f={g: h}",
        "semievol run c.yaml --address h:1 --run s3://b/ag -o a=b c --deadline +3h -od=e -o f={g: h}",
    ]


def test_start_hands_half_an_override_on_to_who_can_say_what_is_wrong(tmp_path: Path) -> None:
    fake(tmp_path, "semievol", "exit 2")

    assert script(tmp_path, "start.sh", "c.yaml", "s3://b/ag", "h:1", "-o") == 2
    assert called(tmp_path) == ["semievol doctor --address h:1 --storage s3://b --config c.yaml -o"]


def test_start_makes_the_folder_of_runs_and_runs_nothing_on_a_cluster_that_is_not_fit(tmp_path: Path) -> None:
    fake(tmp_path, "semievol", "exit 1")

    assert script(tmp_path, "start.sh", "c.yaml", f"{tmp_path}/runs/ag") == 1
    assert called(tmp_path) == [f"semievol doctor --address auto --storage {tmp_path}/runs --config c.yaml"]
    assert (tmp_path / "runs").is_dir()


def leaving(folder: Path, seconds: int, *processes: "subprocess.Popen[bytes]") -> "subprocess.Popen[bytes]":
    """leave.sh on a node on which these processes run, with a stand-in of `ray`."""
    fake(folder, "ray")
    proc = folder / "proc"
    proc.mkdir()
    for process in processes:
        (proc / str(process.pid)).symlink_to(f"/proc/{process.pid}")
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PROC": str(proc)}
    return subprocess.Popen([CLUSTER / "leave.sh", str(seconds)], env=environment)


@pytest.mark.parametrize("title", ["ray::ServeReplica:llm:LLMServer", "ray::ServeReplica:llm:LLMServer.handle_request"])
def test_leave_waits_for_the_replicas_that_serve_and_leaves_their_end_to_serve(tmp_path: Path, title: str) -> None:
    replica = subprocess.Popen([title, "2"], executable=shutil.which("sleep"))
    began = time.monotonic()
    try:
        assert leaving(tmp_path, 20, replica).wait(15) == 0
        assert 1.5 < time.monotonic() - began < 10
        assert replica.poll() == 0
    finally:
        replica.kill()
        replica.wait()
    assert [line.split()[1] for line in called(tmp_path)] == ["drain-node", "stop"]


def test_leave_waits_no_longer_for_a_replica_than_it_may(tmp_path: Path) -> None:
    replica = subprocess.Popen(["ray::ServeReplica:llm:LLMServer", "60"], executable=shutil.which("sleep"))
    try:
        assert leaving(tmp_path, 2, replica).wait(15) == 0
        assert replica.poll() is None
    finally:
        replica.kill()
        replica.wait()
    assert [line.split()[1] for line in called(tmp_path)] == ["drain-node", "stop"]


def test_leave_drains_the_node_tells_engines_alone_and_stops_ray_when_they_are_gone(tmp_path: Path) -> None:
    sleep = shutil.which("sleep")
    engine = subprocess.Popen([TITLE, "60"], executable=sleep)
    other = subprocess.Popen(["ray::IDLE", "60"], executable=sleep)
    try:
        began = time.monotonic()
        told = leaving(tmp_path, 20, engine, other)
        assert engine.wait(10) == -signal.SIGTERM
        assert told.wait(15) == 0
        assert time.monotonic() - began < 15
        assert other.poll() is None
    finally:
        for process in (engine, other):
            process.kill()
            process.wait()
    assert [line.split()[1] for line in called(tmp_path)] == ["drain-node", "stop"]
