"""The results file of chaos: one line a run, and what all of them come to.

Invariant: a command does a run once for an engine, seed and number, whatever the commit, for all take hours; figures
count every recorded run, and say how many were of which commit. Commands that run beside each other, with another seed
each, add to one file.
"""

import fcntl
import json
import os
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.chaos_plan import Kind
from benchmarks.environment import environment

COUNTED = {
    "rows lost": "rows_lost",
    "rows twice": "rows_twice",
    "parts changed": "parts_changed",
    "parts different": "parts_different",
    "steps different": "steps_different",
    "hangs": "hang",
    "processes left over": "left_over",
    "reruns by hand": "reruns",
}
"""Metric -> what it sums over the runs; the target of each is 0."""
Record = Mapping[str, Any]


def recorded(path: Path) -> list[dict[str, Any]]:
    """The runs in a results file, oldest first; none when it is missing."""
    if not path.exists():
        return []
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["runs"]
    return found


def is_recorded(runs: Sequence[Record], *, engine: str, seed: int, number: int) -> bool:
    """Whether this very run was done."""
    return any((r["engine"], r["seed"], r["number"]) == (engine, seed, number) for r in runs)


def add(path: Path, command: str, run: Record) -> None:
    """Record one more run."""
    with _alone(path.parent):
        write(path, command, [*recorded(path), run])


def write(path: Path, command: str, runs: Sequence[Record]) -> None:
    """Replace the results file: figures of all runs, and every run on a line of its own."""
    measured = metrics(runs)
    goals = {name: {"target": 0, "value": v, "met": v == 0} for name, v in measured.items() if _has_target(name)}
    head = {
        "bench": "chaos",
        "command": command,
        "commit": str(runs[-1]["commit"]),
        "runs_by_commit": dict(Counter(str(r["commit"]) for r in runs)),
        "environment": environment(),
        "repeats": len(runs),
        "metrics": measured,
        "targets": goals,
    }
    lines = ",\n".join("  " + json.dumps(run) for run in runs)
    text = json.dumps(head, indent=1).removesuffix("\n}") + f',\n "runs": [\n{lines}\n ]\n}}\n'
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def metrics(runs: Sequence[Record]) -> dict[str, float]:
    """Figures of each engine: runs, kills of each kind, what went wrong, seconds of a run."""
    found: dict[str, float] = {}
    for engine in sorted({str(r["engine"]) for r in runs}):
        of_engine = [r for r in runs if r["engine"] == engine]
        kinds = Counter(kind for r in of_engine for kind in r["kinds"])
        found[f"{engine} runs"] = len(of_engine)
        found |= {f"{engine} {kind} strikes": kinds[kind.value] for kind in Kind}
        found |= {f"{engine} {name}": sum(r[field] for r in of_engine) for name, field in COUNTED.items()}
        found[f"{engine} wrong ends"] = sum(bool(r["wrong"]) for r in of_engine)
        found[f"{engine} median seconds"] = statistics.median(r["seconds"] for r in of_engine)
    return found


def render(runs: Sequence[Record]) -> str:
    """The figures as lines of text, an engine after the other."""
    found = metrics(runs)
    width = max(map(len, found))
    return "\n".join(f"{name:<{width}}  {value:g}" for name, value in found.items())


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Within the block no other process is in it for this folder."""
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def _has_target(name: str) -> bool:
    return name.partition(" ")[2] in (*COUNTED, "wrong ends")
