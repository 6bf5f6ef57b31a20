"""Trackers as a run sees them: what arrives, and that none of them ever stops it, fails it or makes it wait."""

import math
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_eventfile import read_events, read_scalars

from semievol_ray.tracking import trackers
from semievol_ray.tracking.sinks import Point
from semievol_ray.tracking.trackers import metrics, open_trackers


class FakeSink:
    """Keeps points; fails at one of open, write and close, or waits there until `go` is set."""

    def __init__(self, fails_at: str = "", waits_at: str = "") -> None:
        self.fails_at, self.waits_at, self.go = fails_at, waits_at, threading.Event()
        self.points: list[Point] = []

    def open(self, *_: object) -> "FakeSink":
        self._reach("open")
        return self

    def write(self, points: Sequence[Point]) -> None:
        self._reach("write")
        self.points += points

    def close(self) -> None:
        self._reach("close")

    def _reach(self, place: str) -> None:
        if place == self.waits_at:
            self.go.wait(30)
        if place == self.fails_at:
            raise ConnectionError(f"no route to http://me:hush@host at {place}.\nmore lines")


def opened(names: Sequence[str], root: Path, said: list[str]) -> trackers.Trackers:
    return open_trackers(names, str(root), "my run", {}, said.append)


def fake(sink: FakeSink, monkeypatch: pytest.MonkeyPatch, root: Path, said: list[str]) -> trackers.Trackers:
    monkeypatch.setattr(trackers, "open_sink", sink.open)
    return opened(["fake"], root, said)


def event_files(root: Path, group: str) -> list[Path]:
    return sorted((root / "tensorboard" / group).iterdir())


def test_what_is_logged_is_in_tensorboards_files_after_close(tmp_path: Path) -> None:
    said: list[str] = []
    tracked = opened(["tensorboard"], tmp_path, said)
    for step in range(250):
        tracked.log("train", {"loss": step / 4, "note": "text"}, step)
    tracked.log("select", {"tau": np.float32(0.5), "accepted": np.int64(12), "bad": math.nan}, 1)
    tracked.close()
    (train,), (select,) = event_files(tmp_path, "train"), event_files(tmp_path, "select")
    assert read_scalars(train) == [("train/loss", step, step / 4) for step in range(250)]
    assert read_scalars(select) == [("select/tau", 1, 0.5), ("select/accepted", 1, 12.0)]
    assert said == []


def test_training_done_again_replaces_its_own_curve_alone(tmp_path: Path) -> None:
    for trained in ({"0000": 1, "0001": 1}, {"0001": 3}):
        tracked = opened(["tensorboard"], tmp_path, [])
        for number, first in trained.items():
            tracked.log("train", {f"rounds/{number}/loss": 1.0}, first)
        tracked.close()
    assert len(event_files(tmp_path, "train/rounds/0000")) == 1
    starts = [list(read_events(file))[1] for file in event_files(tmp_path, "train/rounds/0001")]
    assert [(event.step, event.session_log.status) for event in starts] == [(1, 1), (3, 1)]


def test_metrics_are_the_finite_numbers_alone() -> None:
    values = {
        "loss": 1, "h": np.float32(0.5), "nan": math.nan, "inf": -math.inf, "huge": 10**400, "flag": True, "text": "1",
        "none": None, "list": [1], "share of plant": 0.25, "a:b*": 2,
    }  # fmt: skip
    assert metrics("eval", values) == {
        "eval/loss": 1.0, "eval/h": 0.5, "eval/share of plant": 0.25, "eval/a_b_": 2.0,
    }  # fmt: skip


@pytest.mark.parametrize("place", ["open", "write", "close"])
def test_failing_tracker_is_said_once_and_then_silent(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    tracked = fake(FakeSink(fails_at=place), monkeypatch, tmp_path, said)
    for step in range(20):
        tracked.log("train", {"loss": 1.0}, step)
    tracked.close()
    tracked.log("train", {"loss": 1.0}, 20)
    tracked.close()
    assert len(said) == 1
    assert "tracker fake" in said[0]
    assert f"http://host at {place}" in said[0]
    assert "more lines" not in said[0]


@pytest.mark.parametrize("place", ["open", "write", "close"])
def test_hanging_tracker_holds_up_neither_log_nor_close(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "CLOSE_SECONDS", 0.2)
    sink, said = FakeSink(fails_at=place, waits_at=place), []
    tracked = fake(sink, monkeypatch, tmp_path, said)
    began = time.monotonic()
    for step in range(1000):
        tracked.log("train", {"loss": 1.0}, step)
    tracked.close()
    assert time.monotonic() - began < 2
    sink.go.set()  # it comes back, fails, and has nobody to tell
    assert len(said) == 1


def test_tracker_slower_than_the_run_loses_points_and_says_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "MOST_WAITING", 10)
    sink, said = FakeSink(waits_at="open"), []
    tracked = fake(sink, monkeypatch, tmp_path, said)
    for step in range(25):
        tracked.log("train", {"loss": 1.0}, step)
    sink.go.set()
    tracked.close()
    assert [point.step for point in sink.points] == list(range(10))
    assert len(said) == 1
    assert "15 points" in said[0]


def test_points_from_many_threads_all_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = FakeSink()
    tracked = fake(sink, monkeypatch, tmp_path, [])

    def log(first: int) -> None:
        for step in range(first, first + 200):
            tracked.log("train", {"loss": 1.0}, step)

    threads = [threading.Thread(target=log, args=(first,)) for first in (0, 200, 400)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tracked.close()
    assert sorted(point.step for point in sink.points) == list(range(600))


def test_missing_package_silences_its_tracker_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    said: list[str] = []
    tracked = opened(["wandb", "tensorboard"], tmp_path, said)
    tracked.log("eval", {"accuracy": 0.5}, 1)
    tracked.close()
    assert len(said) == 1
    assert "pip install 'wandb" in said[0]
    assert read_scalars(event_files(tmp_path, "eval")[0]) == [("eval/accuracy", 1, 0.5)]


def test_folder_that_cannot_be_written_is_said_and_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file in the way")
    said: list[str] = []
    tracked = opened(["tensorboard"], tmp_path, said)
    tracked.log("eval", {"accuracy": 0.5}, 1)
    tracked.close()
    assert len(said) == 1
    assert "tensorboard" in said[0]


def test_tracker_that_leaves_the_process_is_a_failure_like_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def leaving(**_: Any) -> bool:
        raise SystemExit(1)

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(login=leaving))
    said: list[str] = []
    tracked = opened(["wandb"], tmp_path, said)
    tracked.log("eval", {"accuracy": 0.5}, 1)
    tracked.close()
    assert len(said) == 1


def test_run_with_nothing_to_log_opens_no_tracker(tmp_path: Path) -> None:
    tracked = opened(["tensorboard", "wandb"], tmp_path, said := [])
    tracked.log("eval", {"note": "no number"}, 1)
    tracked.close()
    tracked.log("eval", {"accuracy": 0.5}, 2)
    assert (list(tmp_path.iterdir()), said) == ([], [])
