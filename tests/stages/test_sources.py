"""What a path of data names: a file, a folder, a pattern; empty files are passed over, mixed kinds are not."""

import time
from pathlib import Path

import pytest

from semievol_ray.errors import DataError
from semievol_ray.stages.reading import read_rows
from semievol_ray.stages.sources import files_of, sources_digest
from semievol_ray.tasks import builtin


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards with rows, an empty one, and files that are none, in a folder with a blank and an umlaut."""
    made = tmp_path / "pool of März"
    made.mkdir()
    (made / "b ü.jsonl").write_text('{"question": "second"}\n')
    (made / "a.jsonl").write_text('{"question": "first"}\n')
    for name in ("c.jsonl", ".hidden.jsonl", "_SUCCESS", "notes.txt"):
        (made / name).write_text("")
    return made


def test_folder_and_pattern_name_their_filled_files_in_order(folder: Path) -> None:
    shards = (f"{folder}/a.jsonl", f"{folder}/b ü.jsonl")
    assert files_of(str(folder)) == files_of(f"{folder}/*.jsonl") == shards
    assert files_of(f"{folder}/b*") == shards[1:]
    rows = list(read_rows(str(folder), builtin("wordnet"), needs_answer=False))
    assert [row.question for row in rows] == ["first", "second"]


def test_file_with_the_signs_of_a_pattern_in_its_name_is_itself(tmp_path: Path) -> None:
    (tmp_path / "rows[1].jsonl").write_text("{}")
    assert files_of(f"{tmp_path}/rows[1].jsonl") == (f"{tmp_path}/rows[1].jsonl",)


def test_digest_of_a_folder_is_of_the_rows_and_not_of_empty_files(folder: Path) -> None:
    before = sources_digest(str(folder), files_of(str(folder)))
    (folder / "d.jsonl").write_text("")
    assert sources_digest(str(folder), files_of(str(folder))) == before
    (folder / "d.jsonl").write_text("{}")
    assert sources_digest(str(folder), files_of(str(folder))) != before


def test_ten_thousand_empty_files_are_refused_at_once(tmp_path: Path) -> None:
    for i in range(10_000):
        (tmp_path / f"{i}.jsonl").touch()
    began = time.process_time()
    with pytest.raises(DataError, match="holds no rows: all 10000 files are empty"):
        files_of(str(tmp_path))
    assert time.process_time() - began < 5


def test_folder_of_several_kinds_or_of_none_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "more.csv").write_text("question\na\n")
    with pytest.raises(DataError, match=r"names \.csv and \.jsonl files.*folder/\*\.jsonl"):
        files_of(str(folder))
    with pytest.raises(DataError, match=r"no \.csv, \.jsonl or \.parquet file of that name"):
        files_of(f"{tmp_path}/absent*.jsonl")
