"""Verify: every part of a run read and compared with what was committed; what does not fit, file by file.

Invariant: nothing is written here and no lease is taken, so that looking disturbs no driver.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from semievol_ray import storage
from semievol_ray.cleaned import PARTS, removed
from semievol_ray.errors import StorageError
from semievol_ray.findings import Fault, Finding, ReadPart, broken, cleaned_faults, faults, read_part
from semievol_ray.listing import NUM_READERS, PART_SUFFIX
from semievol_ray.progress import Bar, Progress
from semievol_ray.runs import read_manifest, require_run
from semievol_ray.steps import STEP_FILE, Step, read_step_record


@dataclass(frozen=True)
class Verified:
    """A run directory that was read: how much of it, and what does not fit, in order of steps and parts."""

    root: str
    num_steps: int
    num_parts: int
    findings: tuple[Finding, ...]

    @property
    def damage(self) -> tuple[Finding, ...]:
        """The findings that a run can stumble over: all but foreign files."""
        return tuple(finding for finding in self.findings if finding.fault is not Fault.FOREIGN)


def verify(root: str, progress: Progress) -> Verified:
    """Read all parts of a run. Raises UserError when the folder is none, StorageError when one cannot be read."""
    require_run(root)
    findings = [] if (wrong := _manifest_fault(root)) is None else [Finding("", "manifest.json", Fault.UNKNOWN, wrong)]
    files: dict[str, set[str]] = {}
    for path in storage.sizes(root):
        folder, _, name = path.rpartition("/")
        files.setdefault(folder, set()).add(name)
    steps = {folder: names for folder, names in sorted(files.items()) if STEP_FILE in names}
    num_parts = sum(name.endswith(PART_SUFFIX) for names in steps.values() for name in names)
    with progress.step("verify", num_parts, "parts") as bar:
        for name, names in steps.items():
            findings += _step_findings(root, name, names, bar)
    orphans = {folder: names for folder, names in sorted(files.items()) if folder not in steps}
    findings += [_orphan(folder, parts) for folder, names in orphans.items() if (parts := _parts_in(names, "part-"))]
    return Verified(root, len(steps), num_parts, tuple(findings))


def _manifest_fault(root: str) -> str | None:
    try:
        read_manifest(root)
    except StorageError as error:
        return str(error)
    return None


def _parts_in(names: set[str], prefix: str = "") -> set[str]:
    return {name for name in names if name.startswith(prefix) and name.endswith(PART_SUFFIX)}


def _orphan(folder: str, parts: set[str]) -> Finding:
    return Finding(folder, min(parts), Fault.FOREIGN, f"there is no {STEP_FILE} beside it, so no step reads it")


def _step_findings(root: str, name: str, names: set[str], bar: Bar) -> list[Finding]:
    """What does not fit in one step's folder, in the order of its parts."""
    try:
        record = read_step_record(f"{root}/{name}")
    except StorageError as error:
        bar.advance(len(_parts_in(names)))
        return [Finding(name, STEP_FILE, Fault.UNKNOWN, str(error))]
    step, committed = Step(f"{root}/{name}", name, tuple(record["parts"])), record.get("committed")
    foreign = sorted(_parts_in(names) - {part + PART_SUFFIX for part in step.parts})
    bar.advance(len(foreign))
    there = [part for part in step.parts if part + PART_SUFFIX in names]
    parts = _read_parts(step, there, bar)
    if not committed:
        findings = list(broken(step, parts))
    elif record.get("cleaned"):
        findings = list(cleaned_faults(step, parts, is_gone=removed(record) == PARTS))
    else:
        findings = list(faults(step, parts, committed["digest"]))
    findings += [Finding(name, file, Fault.FOREIGN, "the step has no part of that name") for file in foreign]
    return findings


def _read_parts(step: Step, parts: Sequence[str], bar: Bar) -> dict[str, ReadPart]:
    """These parts, read by a few threads; no more of them in memory than there are threads."""
    found = {}
    with ThreadPoolExecutor(NUM_READERS) as readers:
        for part, read in zip(parts, readers.map(read_part, map(step.part_path, parts)), strict=True):
            found[part] = read
            bar.advance()
    return found
