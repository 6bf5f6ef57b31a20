"""One driver at a time, and what happens when it dies, stands still or lives elsewhere."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from semievol_ray import lease, storage
from semievol_ray.errors import RunInUseError
from semievol_ray.lease import Holder, Lease, newest_holder, require_free

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
    _store(tmp_path, replace(mine, fence=7, pid_started="1", released=False))
    later = Lease.take(str(tmp_path))
    later.close()
    assert later.fence == 8


@pytest.mark.parametrize(
    "elsewhere", [{"boot_id": "another"}, {"pid_namespace": "pid:[1]"}, {"boot_id": "", "pid_namespace": ""}]
)
def test_lease_of_another_container_on_this_host_is_told_dead_by_its_counter_alone(
    tmp_path: Path, elsewhere: dict[str, str]
) -> None:
    lease = Lease.take(str(tmp_path))
    lease.close()
    mine = newest_holder(str(tmp_path))
    assert mine is not None
    assert mine.boot_id
    assert mine.pid_namespace
    # its process number is nobody's here, or another one's
    living = replace(mine, fence=2, pid_started="1", released=False, **elsewhere)  # type: ignore[arg-type]
    _store(tmp_path, living)
    require_free(str(tmp_path))  # what is not known of here is left to those who take it
    renewal = threading.Timer(0.3, _store, (tmp_path, replace(living, counter=1)))
    renewal.start()
    with pytest.raises(RunInUseError, match=f"process {living.pid}"):
        Lease.take(str(tmp_path), patience_seconds=20)
    renewal.join()
    began = time.monotonic()
    later = Lease.take(str(tmp_path), patience_seconds=0.5)
    assert time.monotonic() - began >= 0.5
    assert later.fence == 3
    later.close()


def test_lease_without_boot_and_namespace_as_older_versions_wrote_it_is_read(tmp_path: Path) -> None:
    old = {"fence": 4, "host": "h", "pid": 1, "pid_started": "1", "counter": 3, "released": True, "token": "t"}
    storage.write(f"{tmp_path}/lease/000004.json", json.dumps(old).encode())
    lease = Lease.take(str(tmp_path))
    lease.close()
    assert lease.fence == 5


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


def test_driver_whose_folder_was_made_anew_under_the_same_number_leaves_it_to_the_other(tmp_path: Path) -> None:
    lease = Lease.take(str(tmp_path), renew_seconds=0.02)
    shutil.rmtree(tmp_path / "lease")
    with pytest.raises(RunInUseError, match="taken over by another driver, or deleted"):
        lease.check()
    other = Lease.take(str(tmp_path))
    assert other.fence == lease.fence
    with pytest.raises(RunInUseError, match="taken over by another driver, or deleted"):
        lease.check()
    time.sleep(0.1)
    lease.close()
    other.check()
    holder = newest_holder(str(tmp_path))
    assert holder is not None
    assert not holder.released
    other.close()


def test_driver_whose_folder_was_deleted_does_not_make_it_again(tmp_path: Path) -> None:
    lease = Lease.take(f"{tmp_path}/run", renew_seconds=0.02)
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    time.sleep(0.1)
    shutil.rmtree(tmp_path / "run", ignore_errors=True)  # a renewal under way may have made it once more
    time.sleep(0.1)
    lease.close()
    assert not (tmp_path / "run").exists()


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
    stale = replace(released, fence=5, pid_started="1", released=False)
    _store(tmp_path, stale if host == "this" else replace(stale, host=host))
    context = multiprocessing.get_context("forkserver")
    start, taken = context.Barrier(6), context.Queue()
    takers = [context.Process(target=_taker, args=(str(tmp_path), start, taken)) for _ in range(6)]
    for taker in takers:
        taker.start()
    fences = sorted(taken.get(timeout=30) for _ in takers)
    for taker in takers:
        taker.join()
    assert fences == [0, 0, 0, 0, 0, 6]


def test_taker_that_stood_still_leaves_the_folder_of_the_driver_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, after = storage.names, list[Lease]()

    def late(folder: str, suffix: str = "") -> list[str]:
        """Another driver takes the run between this one's lease and its look at older folders."""
        if suffix == ".staging" and not after:
            monkeypatch.setattr(storage, "names", names)
            monkeypatch.setattr(lease, "is_running", lambda _: False)
            after.append(Lease.take(str(tmp_path)))
        return names(folder, suffix)

    monkeypatch.setattr(storage, "names", late)
    with pytest.raises(RunInUseError, match="taken over"):
        Lease.take(str(tmp_path))
    (holder,) = after
    assert Path(holder.claim.staging).is_dir()
    holder.check()
    holder.close()
