"""Drift: how what a step was made with differs from what is asked now, and what a person can do about it.

Invariant: values are compared as JSON, after a round trip, so that writing and reading alone never makes a difference.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from semievol_ray.errors import DriftError

_ABSENT = object()
_NUM_LISTED = 8


def differences(before: Any, now: Any, where: str = "") -> list[str]:
    """One sentence per differing field, as a dotted path; numbers compare by value (1 is 1.0), not with booleans."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = [*before, *(key for key in now if key not in before)]
        pairs = [(before.get(key, _ABSENT), now.get(key, _ABSENT), key) for key in keys]
    elif isinstance(before, list) and isinstance(now, list):
        if len(before) != len(now):
            return [f"{where}: {len(before)} entries in the run directory, {len(now)} now"]
        pairs = [(old, new, str(index)) for index, (old, new) in enumerate(zip(before, now, strict=True))]
    elif _same(before, now):
        return []
    else:
        return [f"{where}: {_shown(before)} in the run directory, {_shown(now)} now"]
    return [line for old, new, key in pairs for line in differences(old, new, f"{where}.{key}".lstrip("."))]


def refusal(root: str, step: str, changed: Sequence[str], later: Sequence[str]) -> DriftError:
    """The error that shows the differences and the three ways on; `later`: the steps begun after this one."""
    lines = [f"step {step} in {root} was made with other settings or inputs:"]
    lines += [f"  {line}" for line in changed[:_NUM_LISTED]]
    lines += [f"  and {len(changed) - _NUM_LISTED} more"] * (len(changed) > _NUM_LISTED)
    lines += ["Nothing was changed. The ways on:", "  1. go back to the old value"]
    lines += ["  2. start afresh in another folder: --run DIR", f"  3. make it again: delete the folder {root}/{step}"]
    if later:
        lines[-1] += " and those begun after it: " + ", ".join(later[:_NUM_LISTED])
        lines[-1] += f" and {len(later) - _NUM_LISTED} more" * (len(later) > _NUM_LISTED)
    return DriftError("\n".join(lines))


def _same(before: Any, now: Any) -> bool:
    if isinstance(before, bool) != isinstance(now, bool):
        return False
    return bool(before == now or (before != before and now != now))  # NaN is no drift


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    is_digest = isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
    return value[:12] if is_digest else repr(value)
