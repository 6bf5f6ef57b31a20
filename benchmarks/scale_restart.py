"""Restarts: of a run that ended, and of one that was killed when half of its parts were answered.

Invariant: what was committed before the kill is compared file for file; what was begun twice is counted in the ledgers.
"""

import time
from pathlib import Path
from typing import Any

from benchmarks.scale_watch import Measured, measured

JUSTIFIED = "run/rounds/0001/justify"


def half_done(folder: Path, num_parts: int, settings: dict[str, Any]) -> dict[str, float]:
    """Kill a round when half of its justified parts are there, run it again, and compare.

    `folder` holds the input files. Keys: parts before, changed after, begun twice, and in flight at most.
    """
    measured("round", settings, folder / "killed", stop=lambda: len(_parts(folder / JUSTIFIED)) >= num_parts / 2)
    before = {path: path.stat().st_mtime_ns for path in (folder / "run/rounds").rglob("part-*.parquet")}
    answered = len(_parts(folder / JUSTIFIED))
    time.sleep(3)  # the killed driver's Ray ends
    again = measured("round", settings, folder / "again")
    changed = sum(not path.exists() or path.stat().st_mtime_ns != was for path, was in before.items())
    return {
        "parts": num_parts,
        "parts_before_kill": answered,
        "parts_changed_after": changed,
        "parts_begun_twice": sum(_lines(path) > 1 for path in (folder / "run/rounds").rglob("attempts/part-*.jsonl")),
        "seconds_after": again.wall("all"),
    }


def nothing_to_do(folder: Path, settings: dict[str, Any]) -> Measured:
    """Run a round again that has ended."""
    return measured("round", settings, folder / "noop")


def _parts(folder: Path) -> list[Path]:
    return list(folder.glob("part-*.parquet"))


def _lines(path: Path) -> int:
    return sum('"attempt"' in line for line in path.read_text().splitlines())
