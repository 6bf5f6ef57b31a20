"""Rows to be labelled are cut as they stand in their files, across chunks, and a kill costs the parts in hand."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from semievol_ray import configfile, schema, storage
from semievol_ray.progress import Progress
from semievol_ray.runs import Run
from semievol_ray.stages import chunks, labelrows
from semievol_ray.stages.context import Context
from tests.rundirs import PART_ROWS, rows_of, run_tree

NUM_ROWS = 50


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Three files of rows, in which every third row is that before it once more."""
    folder = tmp_path / "new"
    folder.mkdir()
    asked = [f"thing {i - i % 3 // 2}" for i in range(NUM_ROWS)]
    for number, (first, last) in enumerate(((0, 20), (20, 23), (23, NUM_ROWS))):
        lines = "".join(f'{{"question": "{question}"}}\n' for question in asked[first:last])
        (folder / f"{number}.jsonl").write_text(lines)
    return folder


def cut(root: Path, tree_folder: Path, files: Path) -> list[str]:
    """The questions of the committed step, in order."""
    config = configfile.parse(run_tree(tree_folder, labeled=4, unlabeled=4), "test")
    with Run.open(str(root), {"name": "x", "config": {}}) as held, ExitStack() as closing:
        context = Context(held, config, Progress(quiet=True), closing)
        step = labelrows.cut_rows(context, str(files), "labels/new/data")
    assert [step.num_rows((part,)) for part in step.parts[:-1]] == [PART_ROWS] * (len(step.parts) - 1)
    return [row["question"] for row in rows_of(root, "labels/new/data", schema.UNLABELED)]


@pytest.mark.parametrize("chunk_bytes", [40, 200, 10**6])
def test_rows_keep_their_order_and_repeats_whatever_the_chunks(
    tmp_path: Path, files: Path, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", chunk_bytes)
    asked = cut(tmp_path / "run", tmp_path, files)
    assert asked == [f"thing {i - i % 3 // 2}" for i in range(NUM_ROWS)]
    assert not (tmp_path / "run/labels/new/read").exists()


def test_cutting_goes_on_with_the_parts_that_are_missing(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, done = labelrows.cut_read, list[str]()

    def stopping(*arguments: object, **more: object) -> object:
        if done:
            raise KeyboardInterrupt
        done.append("one")
        return own(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(chunks, "CHUNK_BYTES", 200)
    monkeypatch.setattr(labelrows, "cut_read", stopping)
    with pytest.raises(KeyboardInterrupt):
        cut(tmp_path / "run", tmp_path, files)
    there = {path: path.stat().st_mtime_ns for path in (tmp_path / "run/labels/new/data").glob("*.parquet")}
    assert there
    monkeypatch.setattr(labelrows, "cut_read", own)
    assert len(cut(tmp_path / "run", tmp_path, files)) == NUM_ROWS
    assert {path: path.stat().st_mtime_ns for path in there} == there


@pytest.mark.usefixtures("small_ray")
def test_large_files_are_read_and_cut_by_tasks_to_the_same_rows(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelrows, "SMALL_BYTES", -1)
    assert cut(tmp_path / "run", tmp_path, files) == [f"thing {i - i % 3 // 2}" for i in range(NUM_ROWS)]


def test_list_of_chunks_is_not_read_once_a_chunk(tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listings, read = list[str](), storage.read

    def counted(path: str) -> bytes:
        listings.append(path)
        return read(path)

    monkeypatch.setattr(chunks, "CHUNK_BYTES", 40)
    monkeypatch.setattr(storage, "read", counted)
    cut(tmp_path / "run", tmp_path, files)
    assert sum(path.endswith("labels/new/read/parts.json") for path in listings) <= 2


def test_chunks_that_a_kill_left_behind_are_removed_by_the_next_command(tmp_path: Path, files: Path) -> None:
    root = tmp_path / "run"
    asked = cut(root, tmp_path, files)
    left = root / "labels/new/read"
    left.mkdir()
    (left / "step.json").write_bytes((root / "labels/new/data/step.json").read_bytes())
    assert cut(root, tmp_path, files) == asked
    assert not left.exists()
