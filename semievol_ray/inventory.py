"""What lies in a run directory, from one listing of it: each step's parts, bytes and ledgers of attempts.

Invariant: nothing but the listing is read here, so that it costs the same for rows of any size.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from semievol_ray import storage
from semievol_ray.steps import STEP_FILE

_PART, _ATTEMPTS, _LINES, _ENDS = ".parquet", "attempts/", ".d/", ".ends"


@dataclass
class StepFiles:
    """The files of one step: names of the parts that are there, bytes of everything, and ledger bytes by part.

    `ledger_lines` counts the lines of ledgers that lie as an object a line (on object stores), by part.
    """

    parts: dict[str, int] = field(default_factory=dict)
    num_bytes: int = 0
    ledger_bytes: dict[str, int] = field(default_factory=dict)
    ledger_lines: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Inventory:
    """A run directory: its steps by name, and the bytes of all its files."""

    steps: Mapping[str, StepFiles]
    num_bytes: int


def take_inventory(root: str) -> Inventory:
    """List a run directory once; a folder is a step when it holds a step.json."""
    sizes = storage.sizes(root)
    names = {path.removesuffix(f"/{STEP_FILE}") for path in sizes if path.endswith(f"/{STEP_FILE}")}
    steps = {name: StepFiles() for name in sorted(names)}
    step_of: dict[str, str | None] = {}
    for path, num_bytes in sizes.items():
        folder = path.rpartition("/")[0]
        if folder not in step_of:
            step_of[folder] = _step_above(folder, names)
        if name := step_of[folder]:
            _count(steps[name], path[len(name) + 1 :], num_bytes)
    return Inventory(steps, sum(sizes.values()))


def _step_above(folder: str, names: set[str]) -> str | None:
    """The step that a folder is or lies in."""
    while folder and folder not in names:
        folder = folder.rpartition("/")[0]
    return folder or None


def _count(files: StepFiles, path: str, num_bytes: int) -> None:
    files.num_bytes += num_bytes
    if path.endswith(_PART) and "/" not in path:
        files.parts[path.removesuffix(_PART)] = num_bytes
    elif path.startswith(_ATTEMPTS):
        ledger, is_apart, _ = path.removeprefix(_ATTEMPTS).partition(_LINES)
        part = ledger.removesuffix(".jsonl")
        if part.endswith(_ENDS):  # how attempts ended stands beside what was begun
            return
        files.ledger_bytes[part] = files.ledger_bytes.get(part, 0) + num_bytes
        if is_apart:
            files.ledger_lines[part] = files.ledger_lines.get(part, 0) + 1
