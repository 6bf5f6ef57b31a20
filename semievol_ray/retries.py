"""Attempts at parts beyond the first, and why each was made, from the ledgers beside the parts.

Invariant: at most MOST_READ ledgers of a step are opened; the others are counted by their size alone.
"""

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from semievol_ray.inventory import StepFiles
from semievol_ray.records import json_lines

MOST_READ = 50
NEW_DRIVER, ENGINE_ENDED = "a new driver went on", "their engine ended"
_ENDED = {
    "stalled": "their engine stalled",
    "vanished": "their process vanished",
    "memory": "memory ran out",
    "left": "their machine went away",
    "done": "the part was not whole yet",
}


def retries(folder: str, files: StepFiles) -> Counter[str]:
    """Reason -> how many attempts of a step's parts beyond the first were made for it."""
    extra = {part: num for part, num in _extra_attempts(folder, files).items() if num > 0}
    read = sorted(extra)[:MOST_READ]
    found: Counter[str] = Counter()
    for part in read:
        ends = {int(line["attempt"]): str(line["end"]) for line in json_lines(_path(folder, f"{part}.ends"))}
        found.update(_reasons(json_lines(_path(folder, part)), ends))
    if rest := sum(extra[part] for part in set(extra) - set(read)):
        found["reason not looked up"] += rest
    return found


def _extra_attempts(folder: str, files: StepFiles) -> dict[str, int]:
    """part -> attempts beyond the first; of ledgers in one file, by the length of a line in the shortest."""
    if files.ledger_lines:
        return {part: num - 1 for part, num in files.ledger_lines.items()}
    if not files.ledger_bytes:
        return {}
    shortest = min(files.ledger_bytes, key=lambda part: files.ledger_bytes[part])
    line = files.ledger_bytes[shortest] / max(1, len(json_lines(_path(folder, shortest))))
    return {part: round(size / line) - 1 for part, size in files.ledger_bytes.items()} if line else {}


def _reasons(attempts: list[dict[str, Any]], ends: Mapping[int, str]) -> list[str]:
    pairs = pairwise(attempts)
    return [_reason(before, after, ends.get(int(before.get("attempt", 0)))) for before, after in pairs]


def _reason(before: dict[str, Any], after: dict[str, Any], end: str | None) -> str:
    if after.get("rows"):
        return "rows were tried alone"
    if end is None and before.get("fence") != after.get("fence"):
        return NEW_DRIVER
    return _ENDED.get(end or "", ENGINE_ENDED)


def _path(folder: str, part: str) -> str:
    return f"{folder}/attempts/{part}.jsonl"
