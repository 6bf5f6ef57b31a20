"""Repair: takes damaged and edited parts out of a run, so that the same `semievol run` makes these and no others again.

Invariant: under the run's lease, after consent, and nothing that fits is removed; a step loses its parts before it
loses its commit, so that whatever interrupts a repair, the next one finds the rest.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass

from semievol_ray import storage
from semievol_ray.errors import RunStopped, StorageError
from semievol_ray.events import EventLog
from semievol_ray.findings import Fault, Finding
from semievol_ray.lease import Lease
from semievol_ray.listing import LISTING_FILE, PART_SUFFIX, measured, write_listing
from semievol_ray.progress import Progress
from semievol_ray.records import encode
from semievol_ray.runs import require_run
from semievol_ray.steps import STEP_FILE, Step, read_step_record
from semievol_ray.verify import Verified, verify


@dataclass(frozen=True)
class Plan:
    """What a repair does: the parts to be made again, the lists to be written anew, and what only a person can mend."""

    parts: tuple[Finding, ...]
    listings: tuple[Finding, ...]
    left: tuple[Finding, ...]

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps that lose parts."""
        return tuple(dict.fromkeys(finding.step for finding in self.parts))


def plan_of(found: Verified) -> Plan:
    """What a repair would do about these findings."""
    damaged = tuple(finding for finding in found.damage if finding.can_remake)
    again = (*_justified(found.root, damaged), *damaged)  # first what is found only as long as the rest is there
    listings = tuple(finding for finding in found.damage if finding.fault is Fault.UNLISTED)
    left = tuple(finding for finding in found.damage if finding not in (*again, *listings))
    return Plan(again, listings, left)


def repair(root: str, is_agreed: Callable[[Verified, Plan], bool], progress: Progress) -> Plan:
    """Verify a run and take out what can be made again, if `is_agreed` says so; what was done.

    Errors: RunInUseError while a driver lives, RunStopped without consent.
    """
    require_run(root)
    with closing(Lease.take(root)) as lease:
        found = verify(root, progress)
        plan = plan_of(found)
        if not is_agreed(found, plan):
            raise RunStopped("nothing was removed.")
        for finding in plan.listings:
            lease.check()
            _list_again(root, finding.step)
        for name in plan.steps:
            lease.check()
            _take_out(root, name, [finding for finding in plan.parts if finding.step == name], lease.fence)
        return plan


def _justified(root: str, damaged: Sequence[Finding]) -> Iterator[Finding]:
    """The justifications of drafts that are made again, where no commit knows yet which drafts they are of."""
    told = {(finding.step, finding.file) for finding in damaged}
    for finding in damaged:
        fold, drafts, _ = finding.step.rpartition("/drafts/")
        step = Step(f"{root}/{fold}/justify", f"{fold}/justify", ())
        place = (step.name, finding.file)
        if not drafts or place in told or not storage.exists(f"{step.path}/{finding.file}") or _is_committed(step):
            continue
        told.add(place)
        yield Finding(*place, Fault.BUILT, f"made from {finding.step}/{finding.file}", can_remake=True)


def _is_committed(step: Step) -> bool:
    """Whether a step is committed; one whose step.json is damaged is a person's to mend."""
    with suppress(StorageError):
        return step.committed() is not None
    return True


def built_later(root: str, plan: Plan) -> list[str]:
    """The steps begun after the first one that loses parts, and that lose none themselves, in order."""
    begun = [name for _, name in sorted(_begun(root))]
    first = min((begun.index(name) for name in plan.steps), default=len(begun))
    return [name for name in begun[first + 1 :] if name not in plan.steps]


def _begun(root: str) -> Iterator[tuple[str, str]]:
    """When each step began, and its name; a step whose step.json is damaged is left out."""
    for name in storage.find(root, STEP_FILE):
        with suppress(StorageError):
            yield str(read_step_record(f"{root}/{name}")["started"]), name


def _list_again(root: str, name: str) -> None:
    record = read_step_record(f"{root}/{name}")
    write_listing(f"{root}/{name}", measured(f"{root}/{name}", record["parts"]))


def _take_out(root: str, name: str, findings: Sequence[Finding], fence: int) -> None:
    """Remove these parts and the step's commit; what was done is noted in the run's events."""
    step = Step(f"{root}/{name}", name, ())
    for finding in findings:
        if finding.fault is not Fault.MISSING:
            storage.remove(f"{step.path}/{finding.file}")
    record = step.record()
    if record.pop("committed", None):
        storage.write(f"{step.path}/{STEP_FILE}", encode(record))
    storage.remove(f"{step.path}/{LISTING_FILE}")
    parts = [finding.file.removesuffix(PART_SUFFIX) for finding in findings]
    with closing(EventLog(root, fence)) as events:
        events.write("step_repaired", step=name, parts=parts)
