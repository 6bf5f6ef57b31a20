"""Runs' files in an object store: moto's S3 server, asked through s3fs, and what it may do to us."""

import logging
import multiprocessing
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from fsspec.registry import _registry
from s3server import S3Server

from semievol_ray import addresses, events, folders, storage
from semievol_ray.backoff import Backoff
from semievol_ray.errors import MissingExtraError, RunInUseError, StorageError, UserError
from semievol_ray.events import EventLog, LineLog, LineReader, last_line
from semievol_ray.lease import Holder, Lease, newest_holder
from semievol_ray.records import encode
from semievol_ray.runs import Run, read_events
from semievol_ray.schema import GOLD

ROWS = pa.table({"id": ["a", "b"], "answer": ["A", None]}, schema=GOLD)


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "BACKOFF", Backoff(total_seconds=2.0, first_seconds=0.01))


def test_create_eight_racing_threads_one_wins_each_key(s3_root: str) -> None:
    def race(turn: int) -> list[bool]:
        with ThreadPoolExecutor(8) as threads:
            return list(threads.map(lambda i: storage.create(f"{s3_root}/part-{turn}", b"%d" % i), range(8)))

    for turn in range(3):
        won = race(turn)
        assert sum(won) == 1
        assert storage.read(f"{s3_root}/part-{turn}") == b"%d" % won.index(True)


def _racer(
    root: str, number: int, start: "multiprocessing.synchronize.Barrier", won: "multiprocessing.Queue[list[int]]"
) -> None:
    start.wait()
    won.put([number, *(storage.create(f"{root}/part-{turn}", b"%d" % number) for turn in range(8))])


def test_create_two_racing_processes_one_wins_each_key(s3_root: str) -> None:
    context = multiprocessing.get_context("spawn")
    start, won = context.Barrier(2), context.Queue()
    racers = [context.Process(target=_racer, args=(s3_root, number, start, won)) for number in range(2)]
    for racer in racers:
        racer.start()
    results = {number: wins for number, *wins in (won.get(timeout=60) for _ in racers)}
    for racer in racers:
        racer.join()
    assert [results[0][i] + results[1][i] for i in range(8)] == [1] * 8


def test_create_existing_object_keeps_the_first_content(s3_root: str) -> None:
    assert storage.create(f"{s3_root}/a", b"first")
    assert not storage.create(f"{s3_root}/a", b"second")
    assert not storage.create(f"{s3_root}/a", b"first")
    assert storage.read(f"{s3_root}/a") == b"first"


def test_create_whose_answer_was_lost_is_known_by_its_bytes(s3: S3Server, s3_root: str) -> None:
    s3.num_lost = 1
    assert storage.create(f"{s3_root}/a", b"mine")
    storage.write(f"{s3_root}/b", b"another's")
    s3.num_failing = 1
    assert not storage.create(f"{s3_root}/b", b"mine")


def test_names_another_clients_object_is_seen_at_once(s3: S3Server, s3_root: str) -> None:
    storage.write(f"{s3_root}/step/a.parquet", b"")
    assert storage.names(f"{s3_root}/step", ".parquet") == ["a.parquet"]
    s3.client().put_object(Bucket="runs", Key=f"{s3_root.removeprefix('s3://runs/')}/step/b.parquet", Body=b"x")
    assert storage.names(f"{s3_root}/step", ".parquet") == ["a.parquet", "b.parquet"]
    assert storage.exists(f"{s3_root}/step/b.parquet")
    assert storage.names(f"{s3_root}/absent") == []


def test_more_names_than_one_listing_holds_are_all_there(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "4")
    for number in range(10):
        storage.write(f"{s3_root}/{number}", b"")
    assert storage.names(s3_root) == [str(number) for number in range(10)]
    assert len(storage.sizes(s3_root)) == 10


def test_find_and_sizes_give_relative_names(s3_root: str) -> None:
    for name in ("b/step.json", "a/x/step.json", "a/x/below/step.json", "a/other.json", "log.jsonl.d/step.json"):
        storage.write(f"{s3_root}/{name}", b"{}")
    assert storage.find(s3_root, "step.json") == ["a/x", "b"]
    assert storage.sizes(f"{s3_root}/a") == {"other.json": 2, "x/below/step.json": 2, "x/step.json": 2}


def test_table_stored_and_read_again_is_equal(s3_root: str) -> None:
    assert storage.create_table(f"{s3_root}/p.parquet", ROWS)
    assert storage.read_table(f"{s3_root}/p.parquet", GOLD) == ROWS
    assert storage.num_rows(f"{s3_root}/p.parquet") == 2


def test_remove_twice_leaves_the_key_free(s3_root: str) -> None:
    storage.write(f"{s3_root}/a", b"")
    storage.remove(f"{s3_root}/a")
    storage.remove(f"{s3_root}/a")
    assert storage.create(f"{s3_root}/a", b"again")


@pytest.mark.parametrize(
    ("root", "told"), [("s3://no-such-bucket/run", "bucket does not exist"), ("s3://forbidden/run", "permission")]
)
def test_bucket_that_cannot_be_used_is_one_sentence_at_once(s3: S3Server, root: str, told: str) -> None:
    for use in (lambda: storage.write(f"{root}/a", b""), lambda: Run.open(root, {"name": "n", "config": {}})):
        s3.behave()
        with pytest.raises(StorageError, match=told) as caught:
            use()
        assert root in str(caught.value)
        assert len(s3.requests) == 1, "nothing is tried again"


def test_server_errors_of_a_moment_are_tried_again(s3: S3Server, s3_root: str) -> None:
    storage.write(f"{s3_root}/a", b"data")
    uses = [
        lambda: storage.create(f"{s3_root}/b", b""),
        lambda: storage.read(f"{s3_root}/a") == b"data",
        lambda: storage.exists(f"{s3_root}/a"),
        lambda: storage.names(s3_root) == ["a", "b"],
    ]
    for use in uses:
        s3.num_failing = 2
        assert use()
        assert s3.num_failing == 0


def test_server_errors_that_stay_end_in_a_storage_error(s3: S3Server, s3_root: str) -> None:
    s3.num_failing = 10**6
    with pytest.raises(StorageError, match=r"cannot read s3://.*run the same command again"):
        storage.read(f"{s3_root}/a")
    assert len(s3.requests) > 3


def test_endpoint_that_nobody_answers_at_is_tried_again_then_named(
    s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://somebody:secret@127.0.0.1:9")
    options = {"use_listings_cache": False, "anon": True, "config_kwargs": {"retries": {"total_max_attempts": 1}}}
    monkeypatch.setattr("semievol_ray.objectstore._options", lambda *_: options)
    monkeypatch.setattr(storage, "BACKOFF", Backoff(total_seconds=0.2, first_seconds=0.01))
    with pytest.raises(StorageError, match=f"cannot read {s3_root}") as caught:
        storage.read(f"{s3_root}/a")
    assert "secret" not in str(caught.value)


def test_append_lines_come_back_in_order_and_a_plain_file_before_them(s3_root: str) -> None:
    path = f"{s3_root}/attempts/part-0.jsonl"
    assert storage.lines(path) == []
    storage.append_line(path, "1")
    storage.append_lines(path, ["2", "3"])
    storage.append_line(path, "4")
    assert storage.lines(path) == ["1", "2", "3", "4"]
    storage.write(path, b"0\n")
    assert storage.lines(path) == ["0", "1", "2", "3", "4"]
    storage.remove_lines(path)
    assert storage.lines(path) == []


def test_append_lines_by_several_writers_are_all_kept(s3_root: str) -> None:
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda i: storage.append_line(f"{s3_root}/log", str(i)), range(18)))
    assert sorted(storage.lines(f"{s3_root}/log"), key=int) == [str(i) for i in range(18)]


def test_event_log_stores_many_events_in_few_objects(
    s3: S3Server, s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "SHORTEST_SECONDS", 0.2)
    log = EventLog(s3_root, 1)
    for number in range(200):
        log.write("part_committed", number=number)
    log.close()
    assert [event["number"] for event in read_events(s3_root)] == list(range(200))
    assert sum(method == "PUT" for method, _ in s3.requests) <= 4


def test_line_reader_sees_each_line_once(s3_root: str) -> None:
    reader, log = LineReader(f"{s3_root}/curve.jsonl"), LineLog(f"{s3_root}/curve.jsonl")
    assert reader.new() == []
    log.write("1")
    log.close()
    assert reader.new() == ["1"]
    storage.append_lines(f"{s3_root}/curve.jsonl", ["2", "3"])
    assert reader.new() == ["2", "3"]
    assert reader.new() == []


def test_last_line_in_the_store_is_that_of_the_last_object(s3: S3Server, s3_root: str) -> None:
    path = f"{s3_root}/curve.jsonl"
    assert last_line(path) is None
    for first in (1, 3, 5):
        storage.append_lines(path, [f'{{"step": {first}}}', f'{{"step": {first + 1}}}'])
    s3.requests.clear()
    assert last_line(path) == {"step": 6}
    assert sum(method == "GET" and ".d/" in key for method, key in s3.requests) == 1


def test_lease_held_in_the_store_refuses_another_driver_and_counts_on(s3_root: str) -> None:
    lease = Lease.take(s3_root, renew_seconds=0.05)
    with pytest.raises(RunInUseError):
        Lease.take(s3_root)
    lease.close()
    holder = newest_holder(s3_root)
    assert holder is not None
    assert holder.released
    later = Lease.take(s3_root)
    later.close()
    assert later.fence == 2


def test_lease_of_a_silent_other_host_is_taken_over(s3_root: str) -> None:
    storage.write(f"{s3_root}/lease/000003.json", encode(Holder(3, "elsewhere", 1, "1", counter=9).__dict__))
    lease = Lease.take(s3_root, patience_seconds=0.3)
    lease.close()
    assert lease.fence == 4


def test_run_in_a_store_that_ignores_conditions_is_refused(s3: S3Server, s3_root: str) -> None:
    s3.ignores_conditions = True
    with pytest.raises(StorageError, match=r"If-None-Match.*shared folder"):
        Run.open(s3_root, {"name": "n", "config": {}})
    assert storage.sizes(s3_root) == {}


def test_run_in_a_store_keeps_log_and_events_there(s3_root: str, tmp_path: Path) -> None:
    with Run.open(s3_root, {"name": "n", "config": {}}) as run:
        Path(run.log_path).write_text("said\n", encoding="utf-8")
    assert storage.read(f"{s3_root}/logs/attempt-0001.log") == b"said\n"
    assert not Path(run.log_path).exists()
    assert [event["kind"] for event in read_events(s3_root)] == ["run_started"]
    with pytest.raises(UserError, match="one disk"):
        Run.open(f"{tmp_path}/run", {"name": "n", "config": {}}, share=s3_root)


def test_folder_put_copied_and_removed_is_the_same(s3: S3Server, s3_root: str, tmp_path: Path) -> None:
    local = tmp_path / "adapter"
    for name, data in {"a b.json": b"{}", "deep/ü.safetensors": b"x" * 1000}.items():
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).write_bytes(data)
    folders.put_folder(str(local), f"{s3_root}/adapter")
    copy = Path(folders.local_copy(f"{s3_root}/adapter"))
    assert {str(p.relative_to(copy)): p.read_bytes() for p in copy.rglob("*") if p.is_file()} == {
        "a b.json": b"{}",
        "deep/ü.safetensors": b"x" * 1000,
    }
    s3.behave()
    assert folders.local_copy(f"{s3_root}/adapter") == str(copy)
    assert all("list-type" in path for _, path in s3.requests), "what is here is not fetched again"
    storage.write(f"{s3_root}/adapter/a b.json", b"[1]")
    changed = Path(folders.local_copy(f"{s3_root}/adapter"))
    assert (changed / "a b.json").read_bytes() == b"[1]"
    storage.remove_folder(f"{s3_root}/adapter")
    with pytest.raises(StorageError, match="holds no files"):
        folders.local_copy(f"{s3_root}/adapter")


def test_folder_copied_by_eight_at_once_is_fetched_once(s3: S3Server, s3_root: str) -> None:
    storage.write(f"{s3_root}/adapter/weights", b"x" * 10_000)
    s3.behave()
    with ThreadPoolExecutor(8) as threads:
        copies = set(threads.map(lambda _: folders.local_copy(f"{s3_root}/adapter"), range(8)))
    assert len(copies) == 1
    assert sum(method == "GET" and "/weights?" in path for method, path in s3.requests) == 1


def test_address_of_another_scheme_or_with_a_password_is_refused(tmp_path: Path) -> None:
    for path in ("ftp://host/run", "file:///run", "hf://org/data"):
        with pytest.raises(StorageError, match=r"s3:// or gs://"):
            storage.read(path)
    for path in ("s3://key:hush@bucket/run", "gs://hush@bucket/run"):
        with pytest.raises(StorageError, match="credentials") as caught:
            Run.open(path, {"name": "n", "config": {}})
        assert "hush" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("url", "line"), [("s3://b/run", "semievol-ray[s3]"), ("gs://b/run", "semievol-ray[gcs]")])
def test_store_without_its_package_is_one_sentence_with_the_pip_line(
    monkeypatch: pytest.MonkeyPatch, url: str, line: str
) -> None:
    for name in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, name, None)
    for scheme in ("s3", "gs"):
        monkeypatch.delitem(_registry, scheme, raising=False)
    with pytest.raises(MissingExtraError, match=line.replace("[", r"\[")):
        storage.read(url)


def test_store_that_repeats_requests_itself_is_told_apart_by_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(addresses.PACKAGES, "memory", ("gcsfs", "gcs"))
    root = "memory://bucket/my run ü"
    assert storage.create(f"{root}/a", b"1")
    assert storage.create(f"{root}/a", b"1")
    assert not storage.create(f"{root}/a", b"2")
    storage.check_conditional_create(root)
    storage.append_line(f"{root}/log", "line")
    assert storage.lines(f"{root}/log") == ["line"]
    assert storage.names(root) == ["a", "log.d"]
    assert storage.find("memory://bucket", "a") == ["my run ü"]
    assert storage.sizes(root) == {"a": 1, "log.d/00000000": 5}
    storage.remove_folder(root)
    assert not storage.exists(f"{root}/a")


def test_no_warning_names_credentials(s3: S3Server, s3_root: str, caplog: pytest.LogCaptureFixture) -> None:
    s3.num_failing = 4
    with caplog.at_level(logging.DEBUG, logger="semievol_ray"):
        storage.write(f"{s3_root}/a", b"")
    assert "trying again" in caplog.text
    assert "testing" not in caplog.text
