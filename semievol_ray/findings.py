"""What does not fit in one step: its parts against their checksums and against what the step was committed to.

Invariant: a committed step answers to its digest; parts.json vouches for a part only where it gives that digest, so
that no edited list covers an edited part.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from semievol_ray import storage
from semievol_ray.cleaned import read_cleaned
from semievol_ray.engines.adapters import adapter_digest
from semievol_ray.errors import StorageError
from semievol_ray.listing import LISTING_FILE, PART_SUFFIX, PartFacts, read_listing, step_digest
from semievol_ray.steps import STEP_FILE, Step

_END = b"PAR1"


class Fault(StrEnum):
    """What is wrong with a file."""

    DAMAGED = "damaged"
    EDITED = "edited"
    MISSING = "missing"
    UNLISTED = "unlisted"
    UNKNOWN = "unknown"
    FOREIGN = "foreign"
    BUILT = "built on what goes"


@dataclass(frozen=True)
class Finding:
    """A file that does not fit: its step's folder, its name in there, and what was found, as a sentence's rest.

    can_remake: it is a part that a run makes again by itself once it is out of the way. UNLISTED: parts.json does not
    say what the parts, which are as committed, hold. UNKNOWN: what was changed is no part, or cannot be told.
    FOREIGN: a file that belongs to nothing; no step reads it. BUILT: a whole part, made from one that is made again,
    and nothing would tell yet if that one came out otherwise.
    """

    step: str
    file: str
    fault: Fault
    found: str
    can_remake: bool = False


@dataclass(frozen=True)
class ReadPart:
    """One part as it was read: its facts where it is a whole table, else what is wrong with it."""

    facts: PartFacts | None
    wrong: str = ""


def read_part(path: str) -> ReadPart:
    """One part with every page decoded, which checks the checksums."""
    data = storage.read(path)
    if not data.endswith(_END):
        return ReadPart(None, f"cut off or overwritten: its {len(data):,} bytes do not end as a parquet file does")
    try:
        table = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read()
    except (pa.ArrowException, OSError) as error:
        return ReadPart(None, f"not readable as parquet ({str(error).splitlines()[0].rstrip('.')})")
    return ReadPart(PartFacts(storage.digest(data), table.num_rows))


def broken(step: Step, parts: Mapping[str, ReadPart]) -> Iterator[Finding]:
    """The parts that are no whole tables."""
    for part, read in parts.items():
        if read.facts is None:
            yield Finding(step.name, part + PART_SUFFIX, Fault.DAMAGED, read.wrong, can_remake=True)


def faults(step: Step, parts: Mapping[str, ReadPart], digest: str) -> Iterator[Finding]:
    """What of a committed step is not as its digest says."""
    outputs, facts = _outputs(step), {part: read.facts for part, read in parts.items() if read.facts}
    listing, is_whole = _listing(step), len(facts) == len(step.parts)
    if is_whole and step_digest(facts, outputs) == digest:
        if facts and listing != facts:
            found = "gone or changed, while all the parts are as they were committed"
            yield Finding(step.name, LISTING_FILE, Fault.UNLISTED, found)
        return
    yield from _missing(step, parts)
    yield from broken(step, parts)
    if listing is None or step_digest(listing, outputs) != digest:
        if is_whole:
            what = f"{LISTING_FILE} and the parts" if step.parts else "the adapter in it"
            found = f"its digest is not that of {what}: something was changed, and what cannot be told. {_afresh(step)}"
            yield Finding(step.name, STEP_FILE, Fault.UNKNOWN, found)
        return
    for part, now in facts.items():
        if now != listing[part]:
            yield Finding(step.name, part + PART_SUFFIX, Fault.EDITED, _edit(listing[part], now), can_remake=True)


def cleaned_faults(step: Step, parts: Mapping[str, ReadPart], *, is_gone: bool) -> Iterator[Finding]:
    """What of a step that `semievol clean` took parts or texts of is neither as committed nor as it was left.

    None of it can be made again alone, for the others of its parts are no longer what the step was committed to.
    """
    listing, left = _listing(step) or {}, read_cleaned(step.path)
    findings = [*([] if is_gone else _missing(step, parts)), *broken(step, parts)]
    for part, read in parts.items():
        known = [facts[part] for facts in (listing, left) if part in facts]
        if read.facts and known and read.facts not in known:
            findings.append(Finding(step.name, part + PART_SUFFIX, Fault.EDITED, _edit(known[-1], read.facts)))
    for finding in findings:
        yield replace(finding, found=f"{finding.found}. {_afresh(step)}", can_remake=False)


def _afresh(step: Step) -> str:
    return f"To have the step made again, delete {step.path}"


def _missing(step: Step, parts: Mapping[str, Any]) -> Iterator[Finding]:
    for part in step.parts:
        if part not in parts:
            found = "gone, and the step was committed with it"
            yield Finding(step.name, part + PART_SUFFIX, Fault.MISSING, found, can_remake=True)


def _edit(then: PartFacts, now: PartFacts) -> str:
    if then.num_rows != now.num_rows:
        return f"holds {now.num_rows} rows, and {then.num_rows} were committed"
    return f"holds {now.num_rows} rows as committed, but with other content or in another order"


def _listing(step: Step) -> dict[str, PartFacts] | None:
    """parts.json where it is there, whole and about these parts."""
    try:
        found = read_listing(step.path)
    except StorageError:
        return None
    return found if set(found) == set(step.parts) else None


def _outputs(step: Step) -> dict[str, str]:
    """What a step made besides parts: the digest of an adapter. A damaged one has another digest."""
    folder = f"{step.path}/adapter"
    try:
        return {"adapter": adapter_digest(folder)} if storage.names(folder) else {}
    except StorageError:
        return {"adapter": "damaged"}
