"""What `semievol clean` says: the list of what would be removed, the question, and what was freed.

Invariant: without a person at the terminal nothing is agreed to.
"""

import sys
from collections.abc import Sequence

from semievol_ray import tables
from semievol_ray.clean import Removal
from semievol_ray.statuslines import shown, size


def listed(removals: Sequence[Removal]) -> bool:
    """Print what is to be removed; whether there is anything."""
    rows = [(shown(r.step), str(r.what), tables.count(len(r.parts)), _size(r)) for r in removals]
    rows += [("in all", "", "", f"about {size(sum(r.num_bytes for r in removals))}")]
    print(tables.table(("step", "what", "parts", "frees"), rows, num_left=2) if removals else "nothing to remove")
    return bool(removals)


def asked(removals: Sequence[Removal]) -> bool:
    """Print what is to be removed and ask; no where nobody can answer."""
    if not listed(removals):
        return False
    if not sys.stdin.isatty():
        print("No terminal to ask at: add --yes to remove it.")
        return False
    return input("Remove it? It cannot be brought back. [y/N] ").strip().lower() in ("y", "yes")


def freed(num_bytes: int | None) -> str:
    """The last line."""
    return "nothing was removed" if num_bytes is None else f"removed: {size(num_bytes)} freed"


def _size(removal: Removal) -> str:
    return ("about " if removal.what == "texts" else "") + size(removal.num_bytes)
