"""What `semievol verify` says: findings by step, what a repair will do, and what comes after it.

Invariant: every line fits the terminal, and every finding names its file first.
"""

import sys
from collections.abc import Sequence

from semievol_ray import tables
from semievol_ray.errors import RunStopped
from semievol_ray.findings import Fault, Finding
from semievol_ray.progress import Progress
from semievol_ray.repair import Plan, built_later, plan_of, repair
from semievol_ray.verify import Verified, verify

_MOST_OF_A_STEP, _MOST_NAMES = 10, 8


def verify_run(root: str, *, is_repaired: bool, is_asked: bool, progress: Progress | None = None) -> None:
    """Verify a run, repair it where wanted, and print it all. Raises RunStopped where damage is left."""
    progress = progress or Progress()
    if not is_repaired:
        _end_look(verify(root, progress))
        return

    def is_agreed(found: Verified, plan: Plan) -> bool:
        print(render(found))
        if not plan.parts:
            return True
        print(f"\n{_question(plan, built_later(root, plan))}")
        return not is_asked or _answered()

    _end_repair(root, repair(root, is_agreed, progress))


def render(found: Verified) -> str:
    """Everything that was found, and how to go on."""
    looked = f"{found.root}: {found.num_steps} steps, {found.num_parts} parts read"
    if not found.findings:
        return tables.paragraph(f"{looked}; all of it is as it was stored.")
    lines = [tables.paragraph(f"{looked}; {_counts(found.findings)}.")]
    by_step: dict[str, list[Finding]] = {}
    for finding in found.findings:
        by_step.setdefault(finding.step, []).append(finding)
    for findings in by_step.values():
        lines += ["", *map(_finding, findings[:_MOST_OF_A_STEP])]
        if len(findings) > _MOST_OF_A_STEP:
            lines.append(f"and {len(findings) - _MOST_OF_A_STEP} more files of {findings[0].step}")
    return "\n".join(lines)


def _end_look(found: Verified) -> None:
    """Print what was found. Raises RunStopped with the way on where something is damaged."""
    print(render(found))
    if not found.damage:
        return
    plan = plan_of(found)
    told = ["this run is not as it was stored."]
    if plan.parts or plan.listings:
        told.append(
            f"`semievol verify {found.root} --repair` takes out {_parts(plan)}, after asking, and the same "
            "`semievol run` then makes these again and no others."
        )
    raise RunStopped(" ".join([*told, *_left(plan)]))


def _question(plan: Plan, later: Sequence[str]) -> str:
    """What a repair is going to do, before it asks."""
    text = f"To be taken out: {_parts(plan)}. Nothing else is touched; the same `semievol run` makes these again."
    if later:
        text += (
            f" Steps begun after them stay: {_names(later)}. They stand if the parts come out byte for byte as before, "
            "as those of data, retrieval, examples and selection do. Answers that a model draws anew may differ: the "
            "run then stops before it mixes anything, and names the folders to delete and make again. To keep the "
            "results you have, leave the run as it is: its adapters need none of its parts."
        )
    return tables.paragraph(text)


def _end_repair(root: str, plan: Plan) -> None:
    """Print what a repair did and what comes next. Raises RunStopped where something is left for a person to mend."""
    told = []
    if plan.listings:
        told.append(f"Lists of parts written anew: {len(plan.listings)}.")
    if plan.parts:
        told.append(
            f"Taken out: {_parts(plan)}. Now give the `semievol run` command of {root} again: it makes these parts and "
            "no others, and goes on where they are as before."
        )
    if told:
        print(f"\n{tables.paragraph(' '.join(told))}")
    if plan.left:
        raise RunStopped(" ".join(_left(plan)))


def _answered() -> bool:
    """Whether a person says yes; nobody there is a no."""
    if not sys.stdin.isatty():
        print("No terminal to ask at: add --yes to take them out.")
        return False
    return input("Take them out? [y/N] ").strip().lower() in ("y", "yes")


def _finding(finding: Finding) -> str:
    name = f"{finding.step}/{finding.file}".lstrip("/")
    return f"{name}\n" + tables.paragraph(f"{finding.fault.value}: {finding.found}", "  ")


def _counts(findings: Sequence[Finding]) -> str:
    faults = [finding.fault for finding in findings]
    return ", ".join(f"{faults.count(fault)} {fault.value}" for fault in Fault if fault in faults)


def _parts(plan: Plan) -> str:
    """The parts to be made again, counted by step."""
    steps = [finding.step for finding in plan.parts]
    counted = [f"{steps.count(name)} of {name}" for name in plan.steps]
    if not counted:
        return "no part (lists of parts are written anew)"
    return f"{len(steps)} {'part' if len(steps) == 1 else 'parts'} ({_names(counted)})"


def _left(plan: Plan) -> list[str]:
    if not plan.left:
        return []
    names = _names([f"{finding.step}/{finding.file}".lstrip("/") for finding in plan.left])
    return [f"Only you can mend {names}: what was found there says how."]


def _names(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
