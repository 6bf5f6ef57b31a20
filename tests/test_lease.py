"""One driver at a time, and what happens when it dies, stands still or lives elsewhere."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from semievol_ray import storage
from semievol_ray.errors import RunInUseError
from semievol_ray.lease import Holder, Lease, newest_holder

HOLD = """
import sys, time
from semievol_ray.lease import Lease
print(Lease.take(sys.argv[1]).fence, flush=True)
time.sleep(60)
"""


def _hold(root: Path) -> "subprocess.Popen[str]":
    """A live process that holds the lease of `root`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(root)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip().isdigit()
    return process


def _end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def _store(root: Path, holder: Holder) -> None:
    storage.write(f"{root}/lease/{holder.fence:06d}.json", json.dumps(asdict(holder)).encode())


def test_lease_clean_close_frees_it_and_the_fence_grows(tmp_path: Path) -> None:
    fences = []
    for _ in range(3):
        lease = Lease.take(str(tmp_path))
        fences.append(lease.fence)
        lease.close()
    assert fences == [1, 2, 3]


def test_lease_of_a_live_process_is_refused_at_once_naming_it(tmp_path: Path) -> None:
    holder = _hold(tmp_path)
    try:
        began = time.monotonic()
        with pytest.raises(RunInUseError, match=f"process {holder.pid} on host"):
            Lease.take(str(tmp_path))
        assert time.monotonic() - began < 2
    finally:
        _end(holder)


def test_lease_of_a_killed_process_is_taken_over_at_once(tmp_path: Path) -> None:
    holder = _hold(tmp_path)
    os.kill(holder.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{holder.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":  # a zombie is dead too
        assert time.monotonic() < deadline
        time.sleep(0.01)
    began = time.monotonic()
    lease = Lease.take(str(tmp_path))
    assert time.monotonic() - began < 2
    assert lease.fence == 2
    lease.close()
    _end(holder)


def test_lease_of_a_reused_pid_is_taken_over(tmp_path: Path) -> None:
    lease = Lease.take(str(tmp_path))
    lease.close()
    mine = newest_holder(str(tmp_path))
    assert mine is not None
    _store(tmp_path, Holder(7, mine.host, os.getpid(), pid_started="1"))
    later = Lease.take(str(tmp_path))
    later.close()
    assert later.fence == 8


def test_lease_of_a_silent_other_host_is_taken_over_after_the_patience(tmp_path: Path) -> None:
    _store(tmp_path, Holder(3, "elsewhere", 1, "1", counter=9))
    began = time.monotonic()
    lease = Lease.take(str(tmp_path), patience_seconds=0.5)
    lease.close()
    assert time.monotonic() - began >= 0.5
    assert lease.fence == 4


def test_lease_of_a_renewing_other_host_is_refused_before_the_patience_ends(tmp_path: Path) -> None:
    _store(tmp_path, Holder(3, "elsewhere", 41, "1", counter=9))
    renewal = threading.Timer(0.3, _store, (tmp_path, Holder(3, "elsewhere", 41, "1", counter=10)))
    renewal.start()
    began = time.monotonic()
    with pytest.raises(RunInUseError, match="process 41 on host elsewhere"):
        Lease.take(str(tmp_path), patience_seconds=20)
    assert time.monotonic() - began < 10
    renewal.join()


def test_lease_counter_grows_while_held(tmp_path: Path) -> None:
    lease = Lease.take(str(tmp_path), renew_seconds=0.02)
    deadline = time.monotonic() + 10
    counter = 0
    while counter < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
        holder = newest_holder(str(tmp_path))
        counter = holder.counter if holder else 0
    lease.close()
    assert counter >= 3


def test_lease_taken_over_while_standing_still_fails_its_check_and_leaves_the_new_holder(tmp_path: Path) -> None:
    lease = Lease.take(str(tmp_path), renew_seconds=0.02)
    lease.check()
    taker = Holder(lease.fence + 1, "elsewhere", 41, "1", counter=5)
    _store(tmp_path, taker)
    with pytest.raises(RunInUseError, match="taken over"):
        lease.check()
    time.sleep(0.1)
    lease.close()
    assert newest_holder(str(tmp_path)) == taker


def _taker(root: str, start: "multiprocessing.synchronize.Barrier", taken: "multiprocessing.Queue[int]") -> None:
    start.wait()
    try:
        lease = Lease.take(root, patience_seconds=0.2)
    except RunInUseError:
        taken.put(0)
    else:
        taken.put(lease.fence)
    start.wait()  # hold on until all have tried


@pytest.mark.parametrize("host", ["this", "elsewhere"])
def test_stale_lease_with_six_takers_goes_to_one(tmp_path: Path, host: str) -> None:
    lease = Lease.take(str(tmp_path))
    lease.close()
    released = newest_holder(str(tmp_path))
    assert released is not None
    _store(tmp_path, Holder(5, released.host if host == "this" else host, os.getpid(), pid_started="1"))
    context = multiprocessing.get_context("forkserver")
    start, taken = context.Barrier(6), context.Queue()
    takers = [context.Process(target=_taker, args=(str(tmp_path), start, taken)) for _ in range(6)]
    for taker in takers:
        taker.start()
    fences = sorted(taken.get(timeout=30) for _ in takers)
    for taker in takers:
        taker.join()
    assert fences == [0, 0, 0, 0, 0, 6]
