"""A step's folder: its rows counted, its parts fenced, its step.json looked at."""

import json
import os
import shutil
import threading
import time
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from semievol_ray import lease, storage
from semievol_ray.errors import RunInUseError, StorageError
from semievol_ray.lease import Holder
from semievol_ray.listing import LISTING_FILE, measured, read_listing
from semievol_ray.runs import Run, Step, read_steps
from semievol_ray.schema import GOLD
from semievol_ray.steps import STEP_FILE

PARTS = tuple(f"part-{i:05d}" for i in range(4))


def _rows(num: int, answer: str = "A") -> pa.Table:
    return pa.table({"id": [f"row-{i}" for i in range(num)], "answer": [answer] * num}, schema=GOLD)


def _begin(run: Run, name: str = "data/gold", parts: tuple[str, ...] = PARTS, theta: float = 0.5) -> Step:
    return run.step(name, settings={"theta": theta}, inputs={}, parts=parts)


def _take_over(root: Path, fence: int) -> None:
    """Another driver takes a run whose holder stands still."""
    taken = Holder(fence, "elsewhere", 1, "1", released=True)
    storage.create(f"{root}/lease/{fence:06d}.json", json.dumps(taken.__dict__).encode())


def test_num_rows_come_from_footers_before_the_commit_and_from_the_list_after(tmp_path: Path) -> None:
    with Run.open(str(tmp_path), {}) as run:
        step = _begin(run)
        for number, part in enumerate(PARTS, start=1):
            step.commit_part(part, _rows(number))
        assert (step.num_rows(), step.num_rows(PARTS[2:]), step.num_rows(())) == (10, 7, 0)
        run.commit(step, {})
        Path(step.part_path(PARTS[0])).unlink()
        assert (step.num_rows(), step.num_rows(PARTS[:1])) == (10, 1)
        (Path(step.path) / "parts.json").unlink()
        assert step.num_rows(PARTS[1:]) == 9


def test_list_of_parts_holds_digest_and_rows_of_each(tmp_path: Path) -> None:
    with Run.open(str(tmp_path), {}) as run:
        step = _begin(run)
        for part in PARTS:
            step.commit_part(part, _rows(2, part))
        assert read_listing(step.path) == {}
        run.commit(step, {})
        listing = read_listing(step.path)
    assert [listing[part].num_rows for part in PARTS] == [2] * 4
    for part in PARTS:
        assert listing[part].sha256 == storage.digest(Path(step.part_path(part)).read_bytes())
    Path(step.path, "parts.json").write_text('{"part-00000": 1}')
    with pytest.raises(StorageError, match=r"parts\.json is damaged or was edited.*semievol verify"):
        step.num_rows()


def test_measuring_holds_a_few_parts_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [f"part-{i:05d}" for i in range(40)]
    for part in parts:
        storage.create_table(f"{tmp_path}/{part}.parquet", _rows(1))
    held, most, lock, read = 0, 0, threading.Lock(), storage.read

    def counted(path: str) -> bytes:
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        time.sleep(0.002)
        with lock:
            held -= 1
        return read(path)

    monkeypatch.setattr(storage, "read", counted)
    assert list(measured(str(tmp_path), parts)) == parts
    assert 1 < most <= 4


def test_steps_of_five_thousand_parts_are_listed_and_resumed_quickly(tmp_path: Path) -> None:
    parts = tuple(f"part-{i:05d}" for i in range(5000))
    with Run.open(str(tmp_path), {}) as run:
        names = [f"rounds/{number:04d}/select" for number in range(4)]
        for name in names:
            _begin(run, name, parts)
        for part in parts[:4000]:
            (tmp_path / names[0] / f"{part}.parquet").touch()
        began = time.process_time()
        assert [name for name, _ in read_steps(str(tmp_path))] == names
        assert len(_begin(run, names[0], parts).missing_parts()) == 1000
        assert time.process_time() - began < 0.5


@pytest.mark.parametrize("file", [PARTS[0], LISTING_FILE, STEP_FILE])
def test_driver_that_stood_still_after_its_last_look_lands_nothing_on_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    fsync, is_commit = os.fsync, file != PARTS[0]
    with Run.open(str(tmp_path), {}) as stopped:
        step = _begin(stopped)
        for part in PARTS[not is_commit :]:
            step.commit_part(part, _rows(1))

        def late(handle: int) -> None:
            """What is to be stored lies whole in a file without its name when another driver takes the run."""
            if file not in Path(f"/proc/self/fd/{handle}").readlink().name:
                return fsync(handle)
            monkeypatch.setattr(os, "fsync", fsync)
            monkeypatch.setattr(lease, "is_running", lambda _: False)
            fsync(handle)
            lease.Lease.take(str(tmp_path)).close()
            return None

        monkeypatch.setattr(os, "fsync", late)
        stored = partial(stopped.commit, step, {}) if is_commit else partial(step.commit_part, PARTS[0], _rows(1))
        with pytest.raises(RunInUseError, match="taken over"):
            stored()
        assert step.missing_parts() == (() if is_commit else PARTS[:1])
        assert step.committed() is None
    assert not list(tmp_path.rglob("*.tmp"))


def test_worker_that_stood_still_before_its_create_adds_to_the_step_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = storage.create_table
    with Run.open(str(tmp_path), {}) as run:
        step = _begin(run)

        def late(path: str, table: pa.Table, staging: str | None = None) -> bool:
            _take_over(tmp_path, run.fence + 1)
            return create(path, table, staging)

        monkeypatch.setattr(storage, "create_table", late)
        with pytest.raises(RunInUseError, match="taken over"):
            step.commit_part(PARTS[0], _rows(1))
        assert step.has_part(PARTS[0])  # of the same settings and inputs: whose it is makes no difference


def test_worker_of_a_run_that_was_deleted_and_made_anew_adds_nothing(tmp_path: Path) -> None:
    root = str(tmp_path / "run")
    with Run.open(root, {}) as old:
        step = _begin(old)
        shutil.rmtree(root)
        with Run.open(root, {}) as new:
            assert new.fence == old.fence
            again = _begin(new)
            with pytest.raises(RunInUseError, match="taken over"):
                step.commit_part(PARTS[0], _rows(1))
            assert again.missing_parts() == PARTS
            assert again.commit_part(PARTS[0], _rows(1))


@pytest.mark.parametrize("is_begun_anew", [True, False])
def test_worker_that_stood_still_adds_nothing_to_a_folder_that_was_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_begun_anew: bool
) -> None:
    create = storage.create_table
    with Run.open(str(tmp_path), {}) as stopped:
        stale = _begin(stopped)

        def late(path: str, table: pa.Table, staging: str | None = None) -> bool:
            """The run is taken over and the step's folder deleted while the worker stands still."""
            monkeypatch.setattr(storage, "create_table", create)
            _take_over(tmp_path, stopped.fence + 1)
            shutil.rmtree(stale.path)
            if is_begun_anew:
                with Run.open(str(tmp_path), {}) as run:
                    fresh = _begin(run, theta=0.6)
                    fresh.commit_part(PARTS[1], _rows(1, "new"))
            return create(path, table, staging)

        monkeypatch.setattr(storage, "create_table", late)
        with pytest.raises(RunInUseError, match="taken over"):
            stale.commit_part(PARTS[0], _rows(1, "old"))
    with Run.open(str(tmp_path), {}) as run:
        fresh = _begin(run, theta=0.6)
        assert fresh.missing_parts() == (PARTS[0], *PARTS[2:]) if is_begun_anew else PARTS


def test_parts_without_a_step_file_are_refused(tmp_path: Path) -> None:
    with Run.open(str(tmp_path), {}) as run:
        step = _begin(run)
        step.commit_part(PARTS[0], _rows(1))
        Path(step.path, "step.json").unlink()
        with pytest.raises(StorageError, match=r"holds part-00000\.parquet but no step\.json.*delete the folder"):
            _begin(run, theta=0.6)


def test_commit_of_a_driver_that_stood_still_is_replaced_by_the_new_ones(tmp_path: Path) -> None:
    with Run.open(str(tmp_path), {}) as stopped:
        stale = _begin(stopped)
        for part in PARTS:
            stale.commit_part(part, _rows(1))
        record = stale.record()
        _take_over(tmp_path, stopped.fence + 1)
        with Run.open(str(tmp_path), {}) as run:
            step = _begin(run)
            late = {"time": "", "digest": "old", "num_rows": 4, "metrics": {}, "seconds": 0, "fence": stopped.fence}
            storage.write(f"{step.path}/step.json", json.dumps({**record, "committed": late}).encode())
            run.commit(step, {}, {"adapter": "new"})
            committed = step.committed()
    assert committed is not None
    assert committed["fence"] == run.fence
    assert committed["digest"] != "old"


def test_step_file_of_another_beginning_is_refused_by_who_was_given_the_first(tmp_path: Path) -> None:
    with Run.open(str(tmp_path), {}) as run:
        step = _begin(run)
        shutil.rmtree(step.path)
        _begin(run, theta=0.6)
        with pytest.raises(StorageError, match=r"step\.json was replaced while this run used it"):
            step.committed()


@pytest.mark.parametrize(
    ("text", "told"),
    [("[1]", "does not hold a JSON object"), ("{", "not valid JSON"), ('{"name": "x"}', "`started` is missing in it")],
)
def test_edited_step_file_is_refused_in_one_sentence(tmp_path: Path, text: str, told: str) -> None:
    with Run.open(str(tmp_path), {}) as run:
        step = _begin(run)
        Path(step.path, "step.json").write_text(text)
        with pytest.raises(StorageError, match=rf"step\.json is damaged or was edited: .*{told}.*delete the folder"):
            _begin(run)
        with pytest.raises(StorageError, match=told):
            read_steps(str(tmp_path))


def test_parts_read_ahead_come_in_their_order_and_a_few_are_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = tuple(f"part-{i:05d}" for i in range(30))
    asked, read = list[str](), storage.read
    with Run.open(str(tmp_path), {}) as run:
        step = _begin(run, parts=parts)
        for part in parts:
            step.commit_part(part, _rows(1, part))

        def slower_at_first(path: str) -> bytes:
            asked.append(path)
            time.sleep(0.01 if path.endswith("0.parquet") else 0)
            return read(path)

        monkeypatch.setattr(storage, "read", slower_at_first)
        tables = step.read_parts(GOLD, ["answer"])
        assert next(tables).column("answer").to_pylist() == [parts[0]]
        assert 1 < len(asked) <= 4
        assert [table.column("answer")[0].as_py() for table in tables] == list(parts[1:])


def test_part_missing_among_those_read_ahead_is_named_in_its_turn(tmp_path: Path) -> None:
    with Run.open(str(tmp_path), {}) as run:
        step = _begin(run)
        for part in PARTS[:2]:
            step.commit_part(part, _rows(1))
        tables = step.read_parts(GOLD)
        assert [next(tables).num_rows, next(tables).num_rows] == [1, 1]
        with pytest.raises(StorageError, match=rf"{PARTS[2]}\.parquet is gone"):
            next(tables)
