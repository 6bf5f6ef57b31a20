"""A benchmark's figures as they are printed and kept."""

import json
from pathlib import Path

import pytest

from benchmarks.found import Found


@pytest.fixture
def found() -> Found:
    found = Found({"seconds a row": 3.25e-06, "rows": 1_234_567.0, "a": 0.0})
    found.at_most("rows", 10.0, 10.0)
    found.at_least("share", 0.95, 0.9499999)
    return found


def test_small_figures_keep_their_digits_and_large_ones_their_places(found: Found) -> None:
    assert [line.split()[-1] for line in found.lines()[:3]] == ["3.25e-06", "1,234,567", "0"]
    assert len({len(line) for line in found.lines()[:3]}) == 1


def test_target_that_is_missed_by_little_is_missed(found: Found) -> None:
    assert [line.split(" ")[0] for line in found.lines()[3:]] == ["met", "NOT"]


def test_result_file_says_what_ran_where_and_what_was_found(found: Found, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    found.keep(str(file), "name", "python -m name", 3, note="alone")

    kept = json.loads(file.read_text())
    assert (kept["bench"], kept["command"], kept["repeats"], kept["note"]) == ("name", "python -m name", 3, "alone")
    assert kept["metrics"] == found.metrics
    assert kept["targets"]["share"] == {"target": 0.95, "value": 0.9499999, "met": False}
    assert kept["environment"]["packages"]["ray"]


def test_nothing_is_kept_where_no_file_is_asked_for(
    found: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found.keep(None, "name", "python -m name")

    assert not list(tmp_path.iterdir())
