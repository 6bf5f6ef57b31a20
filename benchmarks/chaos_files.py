"""What a run's folder holds: parts by content, rows by id, steps by digest; and what two such holdings differ in.

Invariant: nothing here writes into a run, and only the package's own file layout is relied on.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from semievol_ray.stages.pool import KEPT, READ


@dataclass(frozen=True)
class Holding:
    """parts: path -> SHA-256. written: path -> time of writing in ns. rows: step -> id -> how often. steps: -> digest.

    Steps that are not committed have no digest and are left out.
    """

    parts: Mapping[str, str]
    written: Mapping[str, int]
    rows: Mapping[str, Counter[str]]
    steps: Mapping[str, str]


@dataclass(frozen=True)
class Differences:
    """How a disturbed run's end differs from what it should be; all 0 where it does not."""

    rows_lost: int = 0
    rows_twice: int = 0
    parts_different: int = 0
    steps_different: int = 0
    parts_changed: int = 0


def parts_of(root: Path) -> list[str]:
    """Paths of all committed parts below a run's folder that are there to stay; cheap enough to ask again and again."""
    found = []
    for folder, _, names in os.walk(root):  # unlike a glob it does not mind a folder that is removed meanwhile
        under = str(Path(folder).relative_to(root))
        if under not in (READ, KEPT):
            found += [f"{under}/{n}" for n in names if n.endswith(".parquet") and not n.startswith(".")]
    return sorted(found)


def committed(root: Path) -> Holding:
    """Parts as they are now, without reading what is in them: what must still be so when the run has ended."""
    parts = {part: (root / part) for part in parts_of(root)}
    return Holding(
        parts={part: hashlib.sha256(path.read_bytes()).hexdigest() for part, path in parts.items()},
        written={part: path.stat().st_mtime_ns for part, path in parts.items()},
        rows={},
        steps={},
    )


def holding(root: Path) -> Holding:
    """Everything of a run that has ended."""
    now, rows = committed(root), dict[str, Counter[str]]()
    for part in now.parts:
        if "id" in pq.read_schema(root / part).names:
            ids = pq.read_table(root / part, columns=["id"]).column("id").to_pylist()
            rows.setdefault(str(Path(part).parent), Counter()).update(ids)
    return Holding(now.parts, now.written, rows, _digests(root))


def changed(before: Holding, after: Holding) -> int:
    """How many parts that were there before are gone, written again or of other bytes."""
    return sum(
        (before.parts[part], before.written[part]) != (after.parts.get(part), after.written.get(part))
        for part in before.parts
    )


def landed(before: Holding, after: Holding) -> int:
    """How many parts are in one and not as they are in the other."""
    return changed(before, after) + len(set(after.parts) - set(before.parts))


def differences(found: Holding, expected: Holding, *, exact: bool) -> Differences:
    """Against an undisturbed run of the same settings.

    exact: every file is the same. Else, where an engine samples, rows alone are compared, and examples, which depend on
    what was accepted, only for rows that occur twice.
    """
    lost = twice = 0
    for step in set(expected.rows) | set(found.rows):
        has, should = found.rows.get(step, Counter()), expected.rows.get(step, Counter())
        if not exact and step.endswith("/examples"):
            should = Counter(has.keys())
        lost += (should - has).total()
        twice += (has - should).total()
    if not exact:
        return Differences(lost, twice)
    return Differences(lost, twice, _unequal(found.parts, expected.parts), _unequal(found.steps, expected.steps))


def _unequal(one: Mapping[str, str], other: Mapping[str, str]) -> int:
    return sum(one.get(name) != other.get(name) for name in set(one) | set(other))


def _digests(root: Path) -> dict[str, str]:
    found = {}
    for path in root.rglob("step.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.get("committed"):
            found[str(path.parent.relative_to(root))] = str(record["committed"]["digest"])
    return found
