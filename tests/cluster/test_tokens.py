"""Ray's tokens: who has none is told so, and a job's nodes find each other whatever lies in the user's home."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.cluster.test_slurm import JOB, ROOT, free_port, wait_for
from tests.stages.test_address import TOKEN, head

NODES = ROOT / "cluster" / "nodes.py"
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do
  [[ $1 == --nodelist=* ]] && export SLURMD_NODENAME=${1#*=}
  shift
done
exec "$@"
"""
SCONTROL = '#!/bin/bash\n[[ $1 == show ]] && printf "%s\\n" n1 n2\nexit 0\n'
SEMIEVOL = """#!/bin/bash
python "$AT/nodes.py" "$RAN_AT" 2 60 || exit
for ((second = 0; second < 60; second++)); do
  grep -q '"[^"]*", "' "/tmp/ray-$SLURM_JOB_ID-n1/prom_metrics_service_discovery.json" && exit 0
  sleep 1
done
exit 1
"""


def home_with(folder: Path, token: str) -> dict[str, str]:
    """The environment of a user in whose home a local Ray left a token, and who chose no mode."""
    (folder / ".ray").mkdir()
    (folder / ".ray" / "auth_token").write_text(token, encoding="utf-8")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH") and key != "RAY_ADDRESS"}
    return {**kept, "HOME": str(folder), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def test_nodes_that_are_refused_for_a_token_are_not_waited_for(tmp_path: Path) -> None:
    environment = {**home_with(tmp_path, "b" * 64), "RAY_NUM_REDIS_GET_RETRIES": "1"}
    began = time.monotonic()

    with head(TOKEN) as where:
        done = subprocess.run(
            [sys.executable, NODES, where, "2", "60"], env=environment, capture_output=True, text=True, timeout=60
        )

    assert done.returncode == 1
    assert {"RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN"} <= set(done.stderr.split())
    assert time.monotonic() - began < 30


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_nodes_of_a_job_find_each_other_beside_the_token_of_a_local_ray(tmp_path: Path) -> None:
    """The job's script with real Rays on this machine, which Prometheus finds; only Slurm itself is played."""
    environment = home_with(tmp_path, "b" * 64)
    port = free_port()
    for name, body in {"srun": SRUN, "scontrol": SCONTROL, "semievol": SEMIEVOL}.items():
        (tmp_path / name).write_text(body, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "nodes.py").write_text(NODES.read_text(encoding="utf-8"), encoding="utf-8")
    environment |= {
        "PATH": f"{tmp_path}:{environment['PATH']}", "AT": str(tmp_path), "RAN_AT": f"127.0.0.1:{port}",
        "SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_ON_NODE": "1", "SLURM_SUBMIT_DIR": str(ROOT), "SEMIEVOL_HEAD_IP": "127.0.0.1",
        "SEMIEVOL_PORT": str(port), "SEMIEVOL_RAY": "--object-store-memory=80000000",
        "RAY_raylet_start_wait_time_s": "150", "RAY_enable_worker_prestart": "false",
    }  # fmt: skip

    done = subprocess.run(
        ["bash", JOB, "run.yaml", str(tmp_path / "run")], env=environment, capture_output=True, text=True, timeout=380
    )

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.count("2 of 2 nodes are there") == 3  # of the job, the doctor's and the run's
    for node in ("n1", "n2"):
        shutil.rmtree(f"/tmp/ray-{os.getpid()}-{node}", ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_head_that_asks_for_a_users_token_is_joined_with_it_and_refuses_others(tmp_path: Path) -> None:
    """`ray start --head` as a user says it, in whose home a local run left a token."""
    for name in ("user", "other"):
        (tmp_path / name).mkdir()
    user, port, folder = (
        home_with(tmp_path / "user", TOKEN),
        free_port(),
        Path(tempfile.mkdtemp(prefix="sev-", dir="/tmp")),
    )
    command = ["ray", "start", "--head", "--block", f"--port={port}", "--num-cpus=1", "--include-dashboard=false"]
    command += [f"--temp-dir={folder}", "--object-store-memory=80000000", f"--ray-client-server-port={port + 10000}"]
    ray = subprocess.Popen(
        command, env={**user, "RAY_raylet_start_wait_time_s": "150"}, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_for(lambda: listens(port), 100, "the head answers")
        doctor = [sys.executable, "-m", "semievol_ray.cli", "doctor", "--address", f"127.0.0.1:{port}"]
        own, others = (
            subprocess.run(doctor, env={**user, "HOME": str(home)}, capture_output=True, text=True, timeout=150)
            for home in (tmp_path / "user", tmp_path / "other")
        )
    finally:
        ray.terminate()
        try:
            ray.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(ray.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)

    assert f"Ray cluster at 127.0.0.1:{port}" in own.stdout, own.stderr
    assert others.returncode == 2
    assert "takes only who shows its token" in " ".join(others.stderr.split())
    assert "Traceback" not in own.stderr + others.stderr
