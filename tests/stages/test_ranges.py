"""Pieces of files: every record once whatever the borders, with its true line, and what is wrong named."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from semievol_ray.errors import DataError
from semievol_ray.stages import chunks
from semievol_ray.stages.chunks import chunks_of
from semievol_ray.stages.files import records
from semievol_ray.stages.ranges import Piece, piece_records, with_line
from semievol_ray.stages.sources import file_sizes

TEXTS = st.lists(st.text(alphabet="ab,\"'\n\r\\é中 ", min_size=0, max_size=30), min_size=1, max_size=25)
slow_disk = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def here(function: Any, parts: list[str], **constants: Any) -> Iterator[Any]:
    return (function({"part": part}, **constants) for part in parts)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 40)
    monkeypatch.setattr(chunks, "MOST_ROWS", 3)


def pieces_of(path: Path) -> list[Piece]:
    return [piece for chunk in chunks_of(file_sizes(str(path)), here).values() for piece in chunk]


def by_pieces(path: Path) -> list[tuple[int, Any]]:
    """(true line, record) of all pieces of a file, one after the other."""
    found = []
    for piece in pieces_of(path):
        first = with_line(str(path), piece).line if piece.start and path.suffix == ".jsonl" else 1
        moved = first - 1 if piece.line == 0 else 0
        found += [(line + moved, record) for line, record in piece_records(str(path), piece)]
    return found


@slow_disk
@given(texts=TEXTS, blank=st.booleans(), newline=st.sampled_from(["\n", "\r\n"]), last=st.booleans(), bom=st.booleans())
@pytest.mark.usefixtures("small_chunks")
def test_pieces_of_jsonl_hold_each_record_once_with_its_line(
    tmp_path: Path, texts: list[str], blank: bool, newline: str, last: bool, bom: bool
) -> None:
    lines = [json.dumps({"question": text}, ensure_ascii=False) for text in texts]
    joined = (newline * (1 + blank)).join(lines) + newline * last
    path = tmp_path / "rows.jsonl"
    path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + joined.encode())

    assert by_pieces(path) == list(records(str(path)))


@slow_disk
@given(texts=TEXTS, newline=st.sampled_from(["\n", "\r\n"]), bom=st.booleans())
@pytest.mark.usefixtures("small_chunks")
def test_pieces_of_csv_hold_each_record_once_with_its_line(
    tmp_path: Path, texts: list[str], newline: str, bom: bool
) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8-sig" if bom else "utf-8") as file:
        writer = csv.writer(file, lineterminator=newline, quoting=csv.QUOTE_ALL)
        writer.writerows([("question", "n"), *((text, i) for i, text in enumerate(texts))])

    assert by_pieces(path) == list(records(str(path)))


@pytest.mark.usefixtures("small_chunks")
def test_pieces_of_parquet_hold_each_record_once_across_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"question": [f"row {i}" for i in range(23)]}), path, row_group_size=5)

    assert len(pieces_of(path)) == 8
    assert by_pieces(path) == list(records(str(path)))


@pytest.mark.usefixtures("small_chunks")
def test_csv_that_cannot_be_cut_is_one_piece_and_told_when_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("question\n" + "a row\n" * 20 + '"never closed\n')

    assert pieces_of(path) == [Piece(0)]
    with pytest.raises(DataError, match=r"rows\.csv cannot be read as csv: unexpected end"):
        by_pieces(path)


@pytest.mark.usefixtures("small_chunks")
def test_small_files_share_a_chunk_and_large_ones_have_several(tmp_path: Path) -> None:
    for name, size in (("a", 10), ("b", 12), ("c", 100), ("d", 10)):
        (tmp_path / f"{name}.jsonl").write_text("x" * size)
    cut = [[piece.file for piece in chunk] for chunk in chunks_of(file_sizes(str(tmp_path)), here).values()]

    assert cut == [[0, 1], [2], [2], [2], [3]]


def _wrong(name: str, data: bytes, told: str) -> Any:
    return pytest.param(name, data, told, id=name)


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        _wrong("cut.jsonl", b'{"question": "a"}\n{"question": "b', "line 2: not valid JSON .*ends within this line"),
        _wrong("control.jsonl", b'{"question": "a\x01b"}\n', "line 1: not valid JSON .*control character"),
        _wrong("latin.jsonl", b'{"question": "a"}\n{"question": "caf\xe9"}\n', "line 2: not UTF-8 text"),
        _wrong("utf16.jsonl", '{"question": "a"}\n'.encode("utf-16"), "line 1: not UTF-8 text"),
        _wrong("list.jsonl", b"[1]\n", "line 1: a JSON object was expected, not list"),
    ],
)
def test_wrong_jsonl_is_refused_naming_line_and_remedy(name: str, data: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=rf"{name}, {told}"):
        by_pieces(tmp_path / name)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("cut", ["footer", "page"])
def test_truncated_and_corrupt_parquet_is_refused(cut: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    texts = [f"row {i} {i * 7919 % 1000003}" for i in range(5000)]
    pq.write_table(pa.table({"question": texts}), path, compression="zstd")
    data = bytearray(path.read_bytes())
    if cut == "footer":
        data = data[: len(data) // 2]
    else:
        data[2000:9000] = bytes(7000)
    path.write_bytes(bytes(data))

    with pytest.raises(DataError, match=r"rows\.parquet cannot be read.*opy it again"):
        by_pieces(path)
