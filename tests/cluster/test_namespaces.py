"""Hosts that are network namespaces: a run across three of them, of which one is cut off in the middle."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from semievol_ray.runs import read_events, read_steps
from semievol_ray.serve import KEY_VARIABLE
from tests.conftest import questions, run_here, write_config, write_rows
from tests.rundirs import do_run, run_tree

ROOT = Path(__file__).resolve().parents[2]
LOCAL = ROOT / "cluster" / "local"
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "PYTHON": sys.executable,
    "PYTHONPATH": str(ROOT),
}


ON_HOST_2 = """
import ray, sys
# Ray looks for its own among the machine's processes, which these hosts share, and would take the head's
ray.init(address=sys.argv[1], _node_ip_address="10.87.0.2", log_to_driver=False, logging_level="ERROR")
from semievol_ray.cli import main
sys.exit(main(sys.argv[2:]))
"""


@dataclass(frozen=True)
class Hosts:
    """Three hosts with Ray on each, and the address of the first."""

    folder: Path
    address: str

    def start(self, host: int, *command: str) -> "subprocess.Popen[str]":
        whole = [str(LOCAL / "on.sh"), str(self.folder), str(host), *command]
        return subprocess.Popen(whole, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def cut(self, host: int) -> None:
        subprocess.run([LOCAL / "cut.sh", self.folder, str(host)], env=ENVIRONMENT, check=True, timeout=20)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    folder = tmp_path_factory.mktemp("namespaces") / "hosts"
    done = subprocess.run([LOCAL / "up.sh", folder, "3"], env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    if done.returncode == 3:
        pytest.skip("this machine allows no network namespaces")
    try:
        assert done.returncode == 0, done.stderr[-2000:]
        yield Hosts(folder, (folder / "address").read_text(encoding="utf-8").strip())
    finally:
        subprocess.run([LOCAL / "down.sh", folder], env=ENVIRONMENT, timeout=60)


def slow_config(folder: Path) -> Path:
    """A scripted run of some seconds on three hosts."""
    speed = {"part_rows": 4, "num_replicas": {"min": 1, "max": 3}, "num_cpus_per_replica": 1,
             "engine_kwargs": {"max_num_seqs": 4, "seconds_per_request": 1.0}}  # fmt: skip
    method = {"embedder": "hash", "collaborators": [{"demonstrations": 0}, {"adapter": "warm"}]}
    path = write_config(folder, speed=speed, report_to=[], method=method)
    write_rows(folder / "unlabeled.csv", questions(240, "pool"), answers=True)
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    tree["data"] = {"labeled": "labeled.csv", "unlabeled": "unlabeled.csv", "near_duplicates": {"action": "off"}}
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def nodes_at_work(run: Path) -> set[str]:
    if not (run / "events.jsonl").exists():
        return set()
    return {event["node"] for event in read_events(str(run)) if event["kind"] == "part_committed"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_run_whose_folder_lies_on_a_disk_of_one_host_alone_is_refused(hosts: Hosts, tmp_path: Path) -> None:
    config, own = slow_config(tmp_path), hosts.folder / "own"
    command = [sys.executable, "-m", "semievol_ray.cli", "run", str(config), "--dry-run"]

    driver = hosts.start(1, *command, "--address", hosts.address, "--run", str(own / "run"))
    told = " ".join(driver.communicate(timeout=240)[0].split())

    assert driver.returncode == 2, told
    assert "cannot read what" in told
    assert list(own.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_run_served_from_another_host_than_the_head_is_asked_at_the_head(hosts: Hosts, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        run_here(patch)
        do_run(run_tree(tmp_path, labeled=12, unlabeled=32, test=8), tmp_path / "run")
    head, port = hosts.address.rpartition(":")[0], "8123"
    key = "sk-of-this-test-0123456789"
    command = ["serve", str(tmp_path / "run"), "--host", "0.0.0.0", "--port", port, "--address", hosts.address]
    serve = ["env", f"{KEY_VARIABLE}={key}", sys.executable, "-c", ON_HOST_2, hosts.address, *command]

    other = hosts.start(1, sys.executable, "-m", "http.server", port)
    refused = hosts.start(2, *serve)
    said = " ".join(refused.communicate(timeout=120)[0].split())
    other.kill()
    other.communicate()
    assert refused.returncode == 2, said
    assert f"cannot listen at 0.0.0.0:{port}" in said

    served = hosts.start(2, *serve)
    assert served.stdout is not None
    lines = list[str]()
    while not lines or not lines[-1].startswith("engines: "):
        lines.append(served.stdout.readline())
        assert served.poll() is None, "".join(lines)
    asked = hosts.start(2, "curl", "-s", "-H", f"Authorization: Bearer {key}", f"http://{head}:{port}/v1/models")
    answered = asked.communicate(timeout=60)[0]
    served.send_signal(signal.SIGINT)
    served.communicate(timeout=60)
    assert f"serving at http://{head}:{port}/v1" in "".join(lines)
    assert "small-round-1" in answered


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_run_across_three_hosts_finishes_though_one_is_cut_off_in_the_middle(hosts: Hosts, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "semievol_ray.cli", "run", str(slow_config(tmp_path))]
    driver = hosts.start(1, *command, "--address", hosts.address, "--run", str(run))
    deadline = time.monotonic() + 240
    while len(nodes_at_work(run)) < 3:
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.2)

    hosts.cut(3)

    told = driver.communicate(timeout=240)[0]
    assert driver.returncode == 0, told
    records = dict(read_steps(str(run)))
    assert all(record.get("committed") for record in records.values())
    assert records["rounds/0001/justify"]["committed"]["num_rows"] == 240
    assert records["rounds/0001/justify"]["committed"]["metrics"]["num_errors"] == 0
    preflight = next(event for event in read_events(str(run)) if event["kind"] == "preflight")
    assert {node["node"] for node in preflight["nodes"]} >= {"10.87.0.1", "10.87.0.2", "10.87.0.3"}


def test_hosts_are_refused_with_a_reason_where_namespaces_are_not_allowed(tmp_path: Path) -> None:
    (tmp_path / "ip").write_text("#!/bin/bash\nexit 1\n", encoding="utf-8")
    (tmp_path / "ip").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    done = subprocess.run([LOCAL / "up.sh", tmp_path / "hosts"], env=environment, capture_output=True, text=True)

    assert done.returncode == 3
    assert "allows no network namespaces" in done.stderr


def test_folder_that_stands_already_is_left_alone(tmp_path: Path) -> None:
    kept = tmp_path / "name"
    kept.write_text("mine", encoding="utf-8")

    done = subprocess.run([LOCAL / "up.sh", tmp_path], capture_output=True, text=True)

    assert done.returncode not in (0, 3)
    assert kept.read_text(encoding="utf-8") == "mine"
