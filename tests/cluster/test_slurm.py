"""The Slurm job: with stand-ins of Slurm and Ray, and on a real Slurm of two nodes on this machine."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.conftest import questions, write_config, write_rows

ROOT = Path(__file__).resolve().parents[2]
SLURM = ROOT / "cluster" / "slurm"
JOB = SLURM / "semievol.sbatch"
NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "scontrol")
FAKES = {
    "scontrol": '[[ $1 == show ]] && printf "%s\\n" n1 n2; [[ $1 == requeue ]] && kill $PPID; exit 0',
    "srun": "exec sleep 60",
    "python": "exit 0",
    "semievol": "[[ $1 == doctor ]] && exit 0; [[ -n $FAST ]] && exit $FAST\n"
    'trap "kill \\$(jobs -p); exit 130" TERM; sleep 30 & touch $AT/runs; wait',
}


@dataclass(frozen=True)
class Job:
    """A job script that runs beside stand-ins of every command that it calls."""

    folder: Path
    process: "subprocess.Popen[str]"

    def until_running(self) -> None:
        wait_for(lambda: (self.folder / "runs").exists(), 20, "the driver runs")

    def called(self) -> str:
        return (self.folder / "called").read_text(encoding="utf-8")


def wait_for(is_so: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def started(folder: Path, fast: str = "", restarts: int = 0, **more: str) -> Job:
    for name, body in FAKES.items():
        path = folder / name
        seen = f'echo "{name} $*" >> {folder}/called\necho "$RAY_AUTH_MODE $RAY_AUTH_TOKEN" >> {folder}/tokens-{name}'
        path.write_text(f"#!/bin/bash\n{seen}\n{body}\n", encoding="utf-8")
        path.chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
    environment = {
        **kept, **more, "PATH": f"{folder}:{os.environ['PATH']}", "AT": str(folder), "FAST": fast,
        "SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_ON_NODE": "2",
        "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_RESTART_COUNT": str(restarts),
    }  # fmt: skip
    process = subprocess.Popen(["bash", JOB, "c.yaml", "s3://b/runs/ag"], env=environment, text=True)
    return Job(folder, process)


@pytest.mark.parametrize("code", [0, 1, 2])
def test_job_ends_with_the_exit_code_of_the_run_and_is_not_queued_again(tmp_path: Path, code: int) -> None:
    job = started(tmp_path, fast=str(code))

    assert job.process.wait(20) == code
    assert "semievol run c.yaml --address" in job.called()
    assert "requeue" not in job.called()


def test_job_near_its_time_limit_stops_the_run_and_goes_back_into_the_queue(tmp_path: Path) -> None:
    job = started(tmp_path)
    job.until_running()
    job.process.send_signal(signal.SIGUSR1)

    job.process.wait(20)
    assert "scontrol requeue 17" in job.called()


def test_job_whose_run_saw_its_deadline_come_goes_back_into_the_queue(tmp_path: Path) -> None:
    job = started(tmp_path, fast="75")

    job.process.wait(20)
    assert "scontrol requeue 17" in job.called()


@pytest.mark.parametrize(("left", "is_queued"), [(200, True), (7200, False)])
def test_job_whose_run_ended_at_a_deadline_of_its_own_stays_out_of_the_queue(
    tmp_path: Path, left: int, is_queued: bool
) -> None:
    job = started(tmp_path, fast="75", SLURM_JOB_END_TIME=str(int(time.time()) + left))

    code = job.process.wait(20)
    assert ("scontrol requeue 17" in job.called()) == is_queued
    assert is_queued or code == 75


def test_job_that_was_queued_again_too_often_ends_with_130(tmp_path: Path) -> None:
    job = started(tmp_path, restarts=100)
    job.until_running()
    job.process.send_signal(signal.SIGUSR1)

    assert job.process.wait(20) == 130
    assert "requeue" not in job.called()


def test_cancelled_job_stops_the_run_and_stays_out_of_the_queue(tmp_path: Path) -> None:
    job = started(tmp_path)
    job.until_running()
    job.process.send_signal(signal.SIGTERM)

    assert job.process.wait(20) == 130
    assert "requeue" not in job.called()


def test_job_starts_one_head_and_a_worker_on_every_other_node(tmp_path: Path) -> None:
    job = started(tmp_path, fast="0")
    job.process.wait(20)

    steps = sorted(re.findall(r"srun .*--nodes=(\d) .*--nodelist=(\S+) .*node.sh (\w+) \S+:20017 2\n", job.called()))
    assert steps == [("1", "n1", "head"), ("1", "n2", "worker")]


def tokens(job: Job, name: str) -> set[str]:
    """Mode and token of Ray, as a command of the job found them in its environment."""
    return set((job.folder / f"tokens-{name}").read_text(encoding="utf-8").splitlines())


def test_job_gives_all_its_processes_one_token_that_no_command_line_shows(tmp_path: Path) -> None:
    jobs = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        jobs.append(started(tmp_path / name, fast="0"))
    for job in jobs:
        assert job.process.wait(20) == 0

    seen = [tokens(job, "srun") | tokens(job, "python") | tokens(job, "semievol") for job in jobs]
    assert [len(found) for found in seen] == [1, 1]
    (first,), (second,) = seen
    assert first != second
    assert re.fullmatch("token [0-9a-f]{64}", first)
    assert first.split()[1] not in jobs[0].called()


def test_job_without_tokens_where_that_was_asked_for(tmp_path: Path) -> None:
    job = started(tmp_path, fast="0", RAY_AUTH_MODE="disabled")
    job.process.wait(20)

    assert tokens(job, "srun") == tokens(job, "semievol") == {"disabled "}


@dataclass(frozen=True)
class LocalSlurm:
    """A running Slurm of two nodes, and the environment in which its commands find it."""

    folder: Path
    environment: dict[str, str]

    def __call__(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def of_job(self, number: str, field: str) -> str:
        found = re.search(rf"\b{field}=(\S+)", self("scontrol", "show", "job", number))
        return found[1] if found else ""


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[LocalSlurm]:
    if not os.environ.get("SEMIEVOL_TRY_SLURM"):
        pytest.skip("starts a Slurm of its own and takes minutes: SEMIEVOL_TRY_SLURM=1 runs it")
    if not all(shutil.which(name) for name in NEEDED):
        pytest.skip("no Slurm here: apt-get install slurmctld slurmd slurm-client munge")
    environment = {
        **os.environ,
        "SLURM_CONF": str(tmp_path / "slurm/slurm.conf"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SEMIEVOL_PORT": str(free_port()),
        "SEMIEVOL_RAY": "--object-store-memory=80000000",
        "RAY_raylet_start_wait_time_s": "150",
        "RAY_enable_worker_prestart": "false",
    }
    try:
        subprocess.run([SLURM / "local/up.sh", tmp_path / "slurm"], env=environment, check=True, timeout=120)
        yield LocalSlurm(tmp_path, environment)
    finally:
        subprocess.run([SLURM / "local/down.sh", tmp_path / "slurm"], env=environment, timeout=60)


def free_port() -> int:
    """A port below 40000, so that the one that the job puts 10000 above it exists."""
    for port in range(33817, 39999):
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no free port")


def slow_config(folder: Path) -> Path:
    """A scripted run that takes some minutes on two nodes."""
    speed = {"part_rows": 8, "num_replicas": 2, "num_cpus_per_replica": 1,
             "engine_kwargs": {"max_num_seqs": 4, "seconds_per_request": 2.0}}  # fmt: skip
    method = {"embedder": "hash", "collaborators": [{"demonstrations": 1}, {"adapter": "warm"}]}
    path = write_config(folder, speed=speed, report_to=[], method=method)
    write_rows(folder / "unlabeled.csv", questions(240, "pool"), answers=True)
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    tree["data"] = {split: str(folder / name) for split, name in tree["data"].items()}
    tree["data"]["near_duplicates"] = {"action": "off"}
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_job_that_runs_out_of_time_is_queued_again_and_finishes(slurm: LocalSlurm) -> None:
    run, log = slurm.folder / "run", slurm.folder / "job.log"
    config = slow_config(slurm.folder)
    told = ("--time=20", "--signal=B:USR1@50", f"--output={log}")
    number = slurm("sbatch", "--parsable", *told, str(JOB), str(config), str(run))

    wait_for(lambda: len(list(run.glob("rounds/0001/drafts/*/part-*"))) > 2, 300, "drafts of the first start")
    minutes = 1 + int(slurm.of_job(number, "RunTime").split(":")[-2])
    slurm("scontrol", "update", f"JobId={number}", f"TimeLimit={minutes}")
    wait_for(lambda: slurm.of_job(number, "Restarts") == "1", 200, "the job is in the queue again")
    wait_for(lambda: slurm.of_job(number, "JobState") == "PENDING", 60, "the first start has ended")
    kept = {part: part.stat().st_mtime_ns for part in run.glob("rounds/0001/drafts/*/part-*")}
    assert kept
    assert "final" not in json.loads((run / "manifest.json").read_text(encoding="utf-8"))

    # Slurm waits 2 minutes before it starts a job again; nodes refuse one that comes back in the same second
    slurm("scontrol", "update", f"JobId={number}", "TimeLimit=20", "StartTime=now+10")
    wait_for(lambda: slurm.of_job(number, "JobState") in ("COMPLETED", "FAILED", "TIMEOUT"), 400, "the job has ended")

    assert slurm.of_job(number, "JobState") == "COMPLETED", log.read_text(encoding="utf-8")[-3000:]
    assert slurm.of_job(number, "ExitCode") == "0:0"
    assert "final" in json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    assert {part: part.stat().st_mtime_ns for part in kept} == kept
