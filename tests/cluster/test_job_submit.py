"""`ray job submit` to a real cluster with a dashboard, all on this machine and on ports of its own."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).parent / "ray")
ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH")},
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT),
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "150",
    "RAY_enable_worker_prestart": "false",
}


def free_ports(num: int) -> list[int]:
    sockets = [socket.socket() for _ in range(num)]
    for opened in sockets:
        opened.bind(("127.0.0.1", 0))
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def answers(url: str) -> bool:
    try:
        asked = urllib.request.Request(f"{url}/api/version")
        asked.add_header("Authorization", f"Bearer {ENVIRONMENT['RAY_AUTH_TOKEN']}")
        with urllib.request.urlopen(asked, timeout=5):
            return True
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def submitted(command: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """A job that was sent and followed to its end; the head's agent comes up some seconds after the dashboard."""
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(command, env=ENVIRONMENT, cwd=folder, capture_output=True, text=True, timeout=250)
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(3)


@pytest.fixture
def dashboard() -> Iterator[str]:
    """The address of the dashboard of a head of its own, which is ended by its process group."""
    folder = Path(tempfile.mkdtemp(prefix="sev-", dir="/tmp"))  # the paths of sockets have to be short
    port, client, shown, agent = free_ports(4)
    command = [
        RAY, "start", "--head", "--block", f"--port={port}", f"--ray-client-server-port={client}", "--num-cpus=2",
        f"--dashboard-port={shown}", f"--dashboard-agent-listen-port={agent}",
        "--include-dashboard=true", f"--temp-dir={folder}", "--object-store-memory=80000000",
    ]  # fmt: skip
    with (folder / "told").open("w") as told:
        head = subprocess.Popen(command, env=ENVIRONMENT, stdout=told, stderr=told, start_new_session=True)
    url = f"http://127.0.0.1:{shown}"
    try:
        deadline = time.monotonic() + 200
        while not answers(url):
            assert head.poll() is None, (folder / "told").read_text()
            assert time.monotonic() < deadline, "the dashboard does not answer"
            time.sleep(1)
        yield url
    finally:
        head.terminate()
        try:
            head.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def test_submitted_job_does_the_run_and_a_second_one_finds_it_finished(dashboard: str, tmp_path: Path) -> None:
    config = write_config(tmp_path, report_to=[])
    tree = yaml.safe_load(config.read_text(encoding="utf-8"))
    tree["data"] = {split: str(tmp_path / name) for split, name in tree["data"].items()}
    sent = tmp_path / "sent"
    sent.mkdir()
    (sent / "run.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    shutil.copy(ROOT / "cluster/start.sh", sent)
    run = tmp_path / "runs" / "submitted"
    command = [
        RAY, "job", "submit", "--address", dashboard, "--working-dir", str(sent), "--",
        "bash", "start.sh", "run.yaml", str(run),
    ]  # fmt: skip

    for _ in range(2):
        done = submitted(command, tmp_path)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
        assert "succeeded" in done.stdout
    assert "final" in json.loads((run / "manifest.json").read_text(encoding="utf-8"))
