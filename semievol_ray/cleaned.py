"""What is left to say of parts that `semievol clean` took away: the mark in step.json, and digests of rewritten parts.

Invariant: a mark stands before the first part goes, so that a part that is gone is never made again unasked. The
step's digest stays that of what it once held.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from semievol_ray import storage
from semievol_ray.errors import UserError
from semievol_ray.listing import PartFacts
from semievol_ray.records import json_lines

CLEANED_FILE = "cleaned.jsonl"
PARTS: Final = "parts"
TEXTS: Final = "texts"
"""What was removed of a step: its parts, or only the raw texts in them."""


def removed(record: Mapping[str, Any]) -> str:
    """PARTS or TEXTS by a step's step.json, empty when the step is whole."""
    return str((record.get("cleaned") or {}).get("removed", ""))


def read_cleaned(folder: str) -> dict[str, PartFacts]:
    """part -> what it holds since its texts were removed; one that is not yet rewritten may be in here already."""
    found: dict[str, PartFacts] = {}
    for batch in json_lines(f"{folder}/{CLEANED_FILE}"):
        found |= {part: PartFacts(**of) for part, of in batch.items()}
    return found


def note_cleaned(folder: str, facts: Mapping[str, PartFacts]) -> None:
    """Add digests of parts that are about to be rewritten."""
    line = json.dumps({part: asdict(of) for part, of in facts.items()})
    storage.append_line(f"{folder}/{CLEANED_FILE}", line)


def taken_away(folder: str, record: Mapping[str, Any]) -> UserError:
    """The error of a reader that needs a part that was removed."""
    mark = record["cleaned"]
    return UserError(
        f"the parts of {folder} were removed on {str(mark['time'])[:10]} by keep: {mark['keep']}, and now they are "
        "needed. Delete that folder and run the same command again to have the step made anew; what was built on it "
        "is then compared, and refused where it no longer fits."
    )
