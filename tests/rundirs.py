"""Small scripted runs for tests: their configuration, and what lies in their folders.

Invariant: nothing here writes into a run.
"""

import csv
import json
from pathlib import Path
from typing import Any

from semievol_ray import configfile, driver
from semievol_ray.progress import Progress
from semievol_ray.runs import Step

WORDS = ("person", "animal", "plant", "food")
PART_ROWS = 8


def write_questions(path: Path, num: int, *, answers: bool = True) -> None:
    """A csv file of questions that the scripted engine can answer by the word in brackets."""
    rows = [(f"{path.stem} thing {i} [{WORDS[i % 4]}]", WORDS[i % 4])[: 2 if answers else 1] for i in range(num)]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("question", "answer")[: 2 if answers else 1], *rows])


def run_tree(folder: Path, **num_rows: int) -> dict[str, Any]:
    """The configuration of a small run as a person would write it, its data files beside it, of these lengths."""
    for name, num in num_rows.items():
        write_questions(folder / f"{name}.csv", num)
    return {
        "name": "small",
        "task": "wordnet",
        "data": {"near_duplicates": {"action": "off"}, **{name: str(folder / f"{name}.csv") for name in num_rows}},
        "model": "scripted",
        "method": {"embedder": "hash", "collaborators": [{"demonstrations": 1}, {"adapter": "warm"}]},
        "numerics": {"engine": "scripted"},
        "speed": {"part_rows": PART_ROWS, "engine_kwargs": {"max_num_seqs": 4}},
        "report_to": [],
    }


def changed(tree: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of a configuration with another value under a dotted key."""
    *parents, last = path.split(".")
    copy: dict[str, Any] = json.loads(json.dumps(tree))
    inner = copy
    for name in parents:
        inner = inner.setdefault(name, {})
    inner[last] = value
    return copy


def do_run(tree: dict[str, Any], root: Path) -> driver.Finished:
    """Do what is left of a run, in this process and quietly."""
    return driver.run(configfile.parse(tree, "test"), str(root), Progress(quiet=True))


def step_at(root: Path, name: str) -> Step:
    """A step of a run as it lies there."""
    return Step(f"{root}/{name}", name, tuple(json.loads((root / name / "step.json").read_text())["parts"]))


def rows_of(root: Path, name: str, columns: Any) -> list[dict[str, Any]]:
    """All rows of a step, in order."""
    step = step_at(root, name)
    return [row for part in step.parts for row in step.read_part(part, columns).to_pylist()]


def ids_of(root: Path, name: str, columns: Any) -> list[str]:
    """The ids in a step, in order."""
    return [row["id"] for row in rows_of(root, name, columns)]


def metrics_of(root: Path, name: str) -> dict[str, Any]:
    """The metrics of a committed step."""
    committed = step_at(root, name).committed()
    assert committed is not None, name
    return dict(committed["metrics"])


def parts_under(root: Path, under: str = "") -> dict[str, bytes]:
    """Every part file of a run, by its path inside it."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted((root / under).rglob("*.parquet"))}


def stamps_under(root: Path, under: str = "") -> dict[str, int]:
    """When each part and step.json below a folder was written."""
    return {
        str(p): p.stat().st_mtime_ns
        for p in (root / under).rglob("*")
        if p.suffix == ".parquet" or p.name == "step.json"
    }
