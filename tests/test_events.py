"""Lines that another process appends: each is heard once, and what was heard is not read again."""

import errno
import os
from pathlib import Path

import pytest

from semievol_ray import localdisk, storage
from semievol_ray.events import TAIL_BYTES, LineReader, last_line


@pytest.fixture
def num_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes that each reading of a local file brought, whichever way it was read."""
    found, read, read_from = list[int](), localdisk.read, getattr(localdisk, "read_from", None)

    def reading(path: str) -> bytes:
        data = read(path)
        found.append(len(data))
        return data

    def reading_from(path: str, offset: int) -> tuple[int, bytes]:
        assert read_from is not None
        size, data = read_from(path, offset)
        found.append(len(data))
        return int(size), bytes(data)

    monkeypatch.setattr(localdisk, "read", reading)
    monkeypatch.setattr(localdisk, "read_from", reading_from, raising=False)
    return found


def test_reader_reads_what_came_since_and_no_byte_twice(tmp_path: Path, num_read: list[int]) -> None:
    path = tmp_path / "curve.jsonl"
    reader, heard = LineReader(str(path)), list[str]()
    assert reader.new() == []
    for number in range(50):
        storage.append_line(str(path), f"line {number}")
        heard += reader.new()
    assert heard == [f"line {number}" for number in range(50)]
    assert reader.new() == []
    assert sum(num_read) == path.stat().st_size


def test_line_is_heard_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    reader = LineReader(str(path))
    path.write_bytes(b'{"step": 1}\n{"st')
    assert reader.new() == ['{"step": 1}']
    assert reader.new() == []
    with path.open("ab") as file:
        file.write(b'ep": 2}\n')
    assert reader.new() == ['{"step": 2}']


def test_file_that_was_begun_anew_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    reader = LineReader(str(path))
    path.write_text("one\ntwo\nthree\n")
    assert len(reader.new()) == 3
    path.unlink()
    assert reader.new() == []
    path.write_text("four\n")
    assert reader.new() == ["four"]


def test_last_line_is_read_from_the_end_of_a_long_file(tmp_path: Path, num_read: list[int]) -> None:
    path = tmp_path / "curve.jsonl"
    assert last_line(str(path)) is None
    lines = [f'{{"step": {number}, "note": "{"x" * 300}"}}\n' for number in range(1000)]
    path.write_text("".join(lines) + '{"step": 1000, "no')
    found = last_line(str(path))
    assert found is not None
    assert found["step"] == 999
    assert sum(num_read) <= TAIL_BYTES < path.stat().st_size


def test_reading_that_fails_for_a_moment_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "curve.jsonl"
    path.write_text("one\n")
    errors, read_from = [OSError(errno.EIO, os.strerror(errno.EIO))], localdisk.read_from

    def failing(path: str, offset: int) -> tuple[int, bytes]:
        if errors:
            raise errors.pop()
        return read_from(path, offset)

    monkeypatch.setattr(localdisk, "read_from", failing)
    assert LineReader(str(path)).new() == ["one"]
