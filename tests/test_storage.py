"""What the file system may do to a run, and what `storage` makes of it."""

import errno
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from semievol_ray import storage
from semievol_ray.backoff import Backoff
from semievol_ray.errors import StorageError
from semievol_ray.schema import GOLD

ROWS = pa.table({"id": ["a", "b"], "answer": ["A", None]}, schema=GOLD)


def _racer(
    folder: str, number: int, start: "multiprocessing.synchronize.Barrier", won: "multiprocessing.Queue[list[int]]"
) -> None:
    results: list[int] = []
    for turn in range(20):
        start.wait()
        results.append(storage.create(f"{folder}/part-{turn:02d}", bytes([number]) * 100_000))
    won.put([number, *results])


def test_create_eight_racing_processes_one_wins_and_its_bytes_stand(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    start, won = context.Barrier(8), context.Queue()
    racers = [context.Process(target=_racer, args=(str(tmp_path), number, start, won)) for number in range(8)]
    for racer in racers:
        racer.start()
    results = {number: wins for number, *wins in (won.get(timeout=60) for _ in racers)}
    for racer in racers:
        racer.join()
    for turn in range(20):
        (winner,) = [number for number, wins in results.items() if wins[turn]]
        assert storage.read(f"{tmp_path}/part-{turn:02d}") == bytes([winner]) * 100_000
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"part-{turn:02d}" for turn in range(20)]


def test_create_existing_path_keeps_the_first_content(tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "folder" / "file")
    assert storage.create(path, b"first")
    assert not storage.create(path, b"second")
    assert storage.read(path) == b"first"


def test_write_existing_path_replaces_it(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    storage.write(path, b"first")
    storage.write(path, b"2")
    assert storage.read(path) == b"2"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("store", [storage.create, storage.write])
def test_full_disk_names_path_and_remedy_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: object, code: int
) -> None:
    def full(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    path = str(tmp_path / "file")
    with pytest.raises(StorageError, match=r"(?s)file: .*(space|quota).*another folder") as caught:
        store(path, b"data")  # type: ignore[operator]
    assert isinstance(caught.value.__cause__, OSError)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_under_a_replacement_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = str(tmp_path / "file")
    storage.write(path, b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError):
        storage.write(path, b"new")
    assert storage.read(path) == b"old"


def test_unwritable_place_is_one_sentence_with_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (f"{tmp_path}/file/below", "/proc/semievol/step.json"):
        for failing in (storage.create, storage.write):
            with pytest.raises(StorageError, match=path):
                failing(path, b"data")
        with pytest.raises(StorageError, match=path):
            storage.append_line(path, "line")


def test_missing_file_read_says_check_the_spelling(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"absent.*spelling"):
        storage.read(str(tmp_path / "absent"))


def test_path_with_an_unknown_scheme_is_refused() -> None:
    for use in (storage.read, storage.exists, storage.names, storage.remove, storage.make_folder, storage.absolute):
        with pytest.raises(StorageError, match=r"local, s3:// or gs://"):
            use("file:///run")


def test_names_lists_by_suffix_without_unfinished_files(tmp_path: Path) -> None:
    for name in ("b.parquet", "a.parquet", "step.json", ".c.parquet.0f.tmp"):
        (tmp_path / name).write_bytes(b"")
    assert storage.names(str(tmp_path), ".parquet") == ["a.parquet", "b.parquet"]
    assert storage.names(str(tmp_path)) == ["a.parquet", "b.parquet", "step.json"]
    assert storage.names(str(tmp_path / "absent")) == []


def test_find_nested_folders_come_sorted_and_relative(tmp_path: Path) -> None:
    for name in ("b/step.json", "a/x/step.json", "a/x/below/step.json", "a/other.json"):
        storage.write(str(tmp_path / name), b"{}")
    assert storage.find(str(tmp_path), "step.json") == ["a/x", "b"]


def test_remove_twice_leaves_the_path_free(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    storage.write(path, b"")
    storage.remove(path)
    storage.remove(path)
    assert not storage.exists(path)
    assert storage.create(path, b"again")


def test_append_line_after_a_torn_line_starts_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b"')
    storage.append_line(str(path), '{"c": 3}')
    assert storage.lines(str(path)) == ['{"a": 1}', '{"b"', '{"c": 3}']


def test_table_round_trip_keeps_rows_and_nulls(tmp_path: Path) -> None:
    path = str(tmp_path / "part-00000.parquet")
    assert storage.create_table(path, ROWS)
    assert not storage.create_table(path, ROWS.slice(1))
    assert storage.read_table(path, GOLD).equals(ROWS)


def test_equal_tables_cut_differently_give_equal_bytes(tmp_path: Path) -> None:
    cut = pa.concat_tables([ROWS.slice(0, 1), ROWS.slice(1)]).replace_schema_metadata({"made": "elsewhere"})
    storage.create_table(str(tmp_path / "whole"), ROWS)
    storage.create_table(str(tmp_path / "cut"), cut)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "cut").read_bytes()


def test_empty_table_keeps_its_columns(tmp_path: Path) -> None:
    path = str(tmp_path / "part")
    storage.create_table(path, GOLD.empty_table())
    assert storage.read_table(path, GOLD).num_rows == 0


def test_damaged_table_is_a_storage_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "part-00000.parquet"
    big = pa.table({"id": [f"{i:064x}" for i in range(500)], "answer": ["A"] * 500}, schema=GOLD)
    storage.create_table(str(path), big)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[1000] ^= 1  # inside the compressed ids
    for damaged in (b"", b"PAR1", whole[: len(whole) // 2], whole[:-1], bytes(flipped), b"x" * 1000):
        path.write_bytes(damaged)
        with pytest.raises(StorageError, match=r"part-00000\.parquet is damaged"):
            storage.read_table(str(path), GOLD)


def test_table_of_other_columns_is_refused_with_both_lists(tmp_path: Path) -> None:
    path = str(tmp_path / "part")
    storage.create_table(path, pa.table({"id": ["a"], "label": ["A"]}))
    with pytest.raises(StorageError, match=r"\(id: string, label: string\).*\(id: string, answer: string\)"):
        storage.read_table(path, GOLD)


def _once(error: OSError, action: Callable[..., object]) -> Callable[..., object]:
    """An action that does its work and then fails, the first time; later it only works."""
    errors = [error]

    def failing(*arguments: object, **named: object) -> object:
        done = action(*arguments, **named)
        if errors:
            raise errors.pop()
        return done

    return failing


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "BACKOFF", Backoff(total_seconds=1.0, first_seconds=0.001))


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ETIMEDOUT])
def test_create_whose_link_was_made_before_a_failure_of_a_moment_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(os, "link", _once(OSError(code, os.strerror(code)), os.link))
    assert storage.create(f"{tmp_path}/file", b"mine")
    assert storage.read(f"{tmp_path}/file") == b"mine"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_create_whose_link_nfs_repeated_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", _once(FileExistsError(errno.EEXIST, "File exists"), os.link))
    assert storage.create(f"{tmp_path}/file", b"mine")
    assert not storage.create(f"{tmp_path}/file", b"mine")


@pytest.mark.usefixtures("hasty")
def test_append_line_after_a_failure_of_a_moment_is_there_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.append_line(f"{tmp_path}/log", "first")
    monkeypatch.setattr(os, "fsync", _once(OSError(errno.EIO, "Input/output error"), os.fsync))
    storage.append_line(f"{tmp_path}/log", "second")
    assert storage.lines(f"{tmp_path}/log") == ["first", "second"]


@pytest.mark.usefixtures("hasty")
def test_failure_that_stays_ends_in_a_storage_error_with_path_and_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(*_: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(os, "link", stale)
    with pytest.raises(StorageError, match=r"cannot create .*file: Stale file handle\. Check the disk"):
        storage.create(f"{tmp_path}/file", b"")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_folder_that_cannot_be_listed_is_never_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    storage.create(f"{tmp_path}/a/b/step.json", b"x")
    scandir = os.scandir

    def failing(path: str) -> object:
        if str(path).endswith("/b"):
            raise OSError(code, os.strerror(code), path)
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", failing)
        with pytest.raises(StorageError, match=rf"cannot list {tmp_path}: {os.strerror(code)}"):
            storage.find(str(tmp_path), "step.json")
        with pytest.raises(StorageError, match=rf"cannot list {tmp_path}: {os.strerror(code)}"):
            storage.sizes(str(tmp_path))
    assert storage.find(str(tmp_path), "step.json") == ["a/b"]


@pytest.mark.usefixtures("hasty")
def test_folder_that_cannot_be_listed_for_a_moment_is_listed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.create(f"{tmp_path}/a/step.json", b"x")
    scandir, errors = os.scandir, [OSError(errno.EIO, os.strerror(errno.EIO))]

    def failing(path: str) -> object:
        if errors:
            raise errors.pop()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    assert storage.sizes(str(tmp_path)) == {"a/step.json": 1}


def test_folder_removed_while_it_is_walked_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.create(f"{tmp_path}/a/step.json", b"x")
    scandir = os.scandir

    def gone(path: str) -> object:
        if str(path).endswith("/a"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", gone)
    assert storage.find(str(tmp_path), "step.json") == []
    assert storage.sizes(f"{tmp_path}") == {}
    assert storage.sizes(f"{tmp_path}/missing") == {}
