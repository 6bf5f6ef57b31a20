"""Sharing: what two runs would make alike is made once; nothing half-made, changed or of other drafts is taken over."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from semievol_ray.errors import StorageError
from semievol_ray.runs import Run, Step, read_events
from semievol_ray.schema import GOLD

NAME = "rounds/0000/train"
PARTS = ("part-00000", "part-00001")
GIVEN: dict[str, Any] = {
    "settings": {"rate": 1e-4, "labels": ("a", "b")},
    "inputs": {"examples": "e" * 64},
    "parts": PARTS,
    "numerics": {"device": "cpu", "dtype": "float32"},
}


@pytest.fixture
def share(tmp_path: Path) -> str:
    return str(tmp_path / "shared")


@pytest.fixture
def first(tmp_path: Path, share: str) -> Iterator[Run]:
    with Run.open(str(tmp_path / "first"), {}, share=share) as run:
        yield run


@pytest.fixture
def second(tmp_path: Path, share: str) -> Iterator[Run]:
    with Run.open(str(tmp_path / "second"), {}, share=share) as run:
        yield run


def _step(run: Run, name: str = NAME, **changed: Any) -> Step:
    return run.step(name, **{**GIVEN, **changed})


def _made(run: Run, step: Step, metrics: dict[str, Any] | None = None) -> Step:
    """Commit a step with its parts, an adapter folder, a loss curve, and a note of each attempt."""
    for part in step.parts:
        step.begin_attempt(part)
        step.commit_part(part, pa.table({"id": ["row"], "answer": [run.root]}, schema=GOLD))
    (Path(step.path) / "adapter").mkdir()
    (Path(step.path) / "adapter" / "weights").write_text("weights")
    (Path(step.path) / "curve.jsonl").write_text("{}")
    run.commit(step, {"loss": 0.5, **(metrics or {})}, {"adapter": "d" * 64})
    return step


def test_equal_step_of_a_second_run_is_committed_as_it_begins(first: Run, second: Run) -> None:
    origin = _made(first, _step(first))
    taken = _step(second)
    there, here = origin.committed(), taken.committed()
    assert there is not None
    assert here is not None
    assert {k: here[k] for k in ("digest", "metrics", "seconds", "num_rows")} == {
        k: there[k] for k in ("digest", "metrics", "seconds", "num_rows")
    }
    assert Path(second.root, here["shared_from"]).resolve() == Path(origin.path)
    for name in ("part-00000.parquet", "part-00001.parquet", "adapter/weights", "curve.jsonl"):
        assert Path(taken.path, name).samefile(Path(origin.path, name))
    assert taken.attempts(PARTS[0]) == []
    assert [e["kind"] for e in read_events(second.root)] == ["run_started", "step_shared"]
    _step(second)
    assert [e["kind"] for e in read_events(second.root)] == ["run_started", "step_shared"]


@pytest.mark.parametrize(
    "changed",
    [
        {"settings": {"rate": 2e-4, "labels": ("a", "b")}},
        {"inputs": {"examples": "f" * 64}},
        {"parts": PARTS[:1]},
        {"numerics": {"device": "gpu", "dtype": "bfloat16"}},
        {"name": "rounds/0001/train"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_step_that_differs_in_anything_is_made_anew(first: Run, second: Run, changed: dict[str, Any]) -> None:
    _made(first, _step(first))
    assert _step(second, **changed).committed() is None


def test_half_done_step_is_not_taken_over(first: Run, second: Run) -> None:
    half = _step(first)
    half.commit_part(PARTS[0], pa.table({"id": ["row"], "answer": ["A"]}, schema=GOLD))
    assert _step(second).missing_parts() == PARTS


def test_step_made_again_with_another_digest_is_not_taken_over_and_the_next_one_is(
    first: Run, second: Run, tmp_path: Path, share: str
) -> None:
    origin = _made(first, _step(first))
    record = origin.record()
    record["committed"]["digest"] = "0" * 64
    (Path(origin.path) / "step.json").write_text(json.dumps(record))
    own = _made(second, _step(second))
    with Run.open(str(tmp_path / "third"), {}, share=share) as third:
        assert _step(third).digest() == own.digest()


@pytest.mark.parametrize("lost", ["", "part-00001.parquet"], ids=["the step", "a part"])
def test_step_that_was_deleted_since_is_made_anew(first: Run, second: Run, lost: str) -> None:
    origin = _made(first, _step(first))
    path = Path(origin.path, lost)
    path.unlink() if lost else shutil.rmtree(path)
    assert _step(second).committed() is None


def test_step_built_on_drafts_is_taken_over_with_those_very_drafts_alone(first: Run, second: Run) -> None:
    drafts, justify = "rounds/0001/drafts/base_1", "rounds/0001/justify"
    origin = _made(first, _step(first, drafts))
    own = _step(second, drafts, settings={"other": True})
    _made(first, _step(first, justify), {"sources": {drafts: origin.digest()}})
    assert _step(second, justify).committed() is None
    shutil.rmtree(own.path)
    shutil.rmtree(second.path(justify))
    assert _step(second, drafts).committed()
    assert _step(second, justify).committed()


def test_run_without_a_share_takes_and_offers_nothing(tmp_path: Path, share: str) -> None:
    with Run.open(str(tmp_path / "alone"), {}) as alone:
        _made(alone, _step(alone))
    assert not Path(share).exists()
    with Run.open(str(tmp_path / "late"), {}, share=share) as late:
        assert _step(late).committed() is None


def test_run_made_before_there_was_a_share_offers_its_steps_when_it_is_resumed(
    tmp_path: Path, share: str, second: Run
) -> None:
    with Run.open(str(tmp_path / "old"), {}) as old:
        _made(old, _step(old))
    with Run.open(str(tmp_path / "old"), {}, share=share) as old:
        _step(old)
    assert _step(second).committed()


def test_file_system_without_links_gets_copies(first: Run, second: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = _made(first, _step(first))
    real = os.link

    def no_link(source: Any, target: Any) -> None:
        if str(source).startswith(first.root):
            raise OSError(errno.EPERM, "no links here")
        real(source, target)

    monkeypatch.setattr(os, "link", no_link)
    taken = _step(second)
    assert taken.committed()
    mine, theirs = (Path(step.path, "adapter", "weights") for step in (taken, origin))
    assert mine.read_bytes() == theirs.read_bytes()
    assert not mine.samefile(theirs)


def test_step_that_cannot_be_copied_whole_leaves_no_trace(
    first: Run, second: Run, share: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _made(first, _step(first))

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(StorageError, match="cannot share"):
        _step(second)
    assert not Path(second.path(NAME)).exists()
    assert [path for path in Path(share).iterdir() if path.suffix == ".tmp"] == []


def test_study_that_was_moved_still_shares(tmp_path: Path) -> None:
    with Run.open(str(tmp_path / "study/first"), {}, share=str(tmp_path / "study/shared")) as run:
        _made(run, _step(run))
    (tmp_path / "study").rename(tmp_path / "moved")
    with Run.open(str(tmp_path / "moved/second"), {}, share=str(tmp_path / "moved/shared")) as run:
        assert _step(run).committed()
