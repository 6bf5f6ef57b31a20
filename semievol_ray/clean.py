"""`semievol clean`: parts and texts that a run no longer needs, listed, then removed under its lease.

Invariant: what a later round or another verb reads stays: pools, decisions, votes, scalars of every completion, test
answers, adapters. A step that was cleaned stays committed, with its digest and metrics.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from semievol_ray import storage
from semievol_ray.cleaned import PARTS, TEXTS, note_cleaned, removed
from semievol_ray.config import RunConfig
from semievol_ray.configfile import parse
from semievol_ray.errors import StorageError
from semievol_ray.inventory import StepFiles, take_inventory
from semievol_ray.listing import NUM_READERS, PART_SUFFIX, PartFacts
from semievol_ray.records import encode, now
from semievol_ray.runs import Run, read_manifest
from semievol_ray.steps import STEP_FILE, Step, read_steps

Keep = Literal["all", "scalars", "last_round"]
What = Literal["parts", "texts"]
TEXT, BATCH, SAMPLE = "text", 64, 16
_ROUND = re.compile(r"rounds/(\d+)/(?:dev/)?(drafts/.+|justify|retrieve|examples|evaluate|validation)")
_APART = re.compile(r"(base/evaluate|evaluations/[^/]+/round-\d+|labels/[^/]+/(round-\d+|dev|others))")


@dataclass(frozen=True)
class Removal:
    """What is to be removed of one step; the bytes of texts are estimated from a few parts."""

    step: str
    what: What
    parts: tuple[str, ...]
    num_bytes: int


def planned(root: str, config: RunConfig, keep: Keep) -> list[Removal]:
    """What `keep` would remove now, in the order of the steps; nothing of a round that is not over."""
    if keep == "all":
        return []
    records, files = dict(read_steps(root)), take_inventory(root).steps
    found = []
    for name, record in records.items():
        what = _wanted(name, records, config, keep)
        if what and record.get("committed") and not _is_done(record, what):
            found.append(_removal(root, name, record, what, files[name]))
    return [removal for removal in found if removal.num_bytes]


def clean(run: Run, removals: Sequence[Removal]) -> int:
    """Remove what was planned from a run that this process holds; the bytes that this freed.

    Killed in between, it goes on when it is called again. Errors: RunInUseError when taken over, StorageError.
    """
    return sum(_clean_step(run, removal) for removal in removals)


def clean_run(root: str, keep: Keep | None, agree: Callable[[Sequence[Removal]], bool]) -> int | None:
    """List what a run no longer needs, and remove it if `agree` says so; the bytes freed, None without consent.

    `keep` None: as the configuration has it, scalars where that keeps all. Errors: UserError when the folder is no run,
    RunInUseError while a driver lives.
    """
    config = parse(read_manifest(root)["config"], f"{root}/manifest.json")
    chosen = keep or ("scalars" if config.keep == "all" else config.keep)
    with Run.open(root, {}, command="clean") as run:
        removals = planned(run.root, config, chosen)
        return clean(run, removals) if agree(removals) else None


def clean_as_kept(run: Run, config: RunConfig) -> int:
    """What the configuration's `keep` asks for after a round; the bytes that this freed."""
    return clean(run, planned(run.root, config, config.keep)) if config.keep != "all" else 0


def _wanted(name: str, records: Mapping[str, Any], config: RunConfig, keep: Keep) -> What | None:
    """What `keep` removes of a step, if anything."""
    last = max((int(n.split("/")[1]) for n, r in records.items() if _is_selected(n, r)), default=0)
    final = int(max((n.split("/")[1] for n in records if n.startswith("rounds/")), default="0"))
    if keep == "last_round" and name in ("data/embeddings", "data/dev_embeddings"):
        return PARTS if _is_over(records, config) else None
    if _APART.fullmatch(name):
        return TEXTS if keep == "scalars" or last > 1 else None
    match = _ROUND.fullmatch(name)
    if match is None:
        return None
    number, kind = int(match[1]), match[2]
    if kind in ("evaluate", "validation"):
        return TEXTS if keep == "scalars" or number < final else None
    if keep == "scalars":
        return TEXTS if number <= last and kind.startswith(("drafts", "justify")) else None
    return _of_earlier_round(number, kind, config) if number < last else None


def _of_earlier_round(number: int, kind: str, config: RunConfig) -> What | None:
    """What `last_round` removes of a step of a round before the last one."""
    match kind:
        case "justify":
            return TEXTS
        case "retrieve":  # while only labeled rows are shown, round 1's demonstrations serve every round
            return None if number == 1 and config.method.retrieval.pool == "labeled" else PARTS
        case "examples":  # those of round 0 are what `explain` and later rounds look demonstrations up in
            return None if number == 0 else PARTS
        case _:
            return PARTS


def _is_selected(name: str, record: Mapping[str, Any]) -> bool:
    return re.fullmatch(r"rounds/\d+/select", name) is not None and bool(record.get("committed"))


def _is_over(records: Mapping[str, Any], config: RunConfig) -> bool:
    """Whether the last configured round has retrieved, so that no vector is needed any more."""
    last = f"rounds/{config.method.rounds.num:04d}"
    return bool(records.get(f"{last}/select", {}).get("committed"))


def _is_done(record: Mapping[str, Any], what: What) -> bool:
    """Whether this was removed, to the end, before; parts that are gone have no texts either."""
    mark = record.get("cleaned") or {}
    return bool(mark.get("complete")) and (removed(record) in (PARTS, what))


def _removal(root: str, name: str, record: Mapping[str, Any], what: What, files: StepFiles) -> Removal:
    parts = tuple(part for part in record["parts"] if part in files.parts)
    num_bytes = sum(files.parts[part] for part in parts)
    if what == TEXTS and parts:
        some = parts[:: max(1, len(parts) // SAMPLE)]
        texts = sum(_text_bytes(f"{root}/{name}/{part}{PART_SUFFIX}") for part in some)
        num_bytes = round(num_bytes * texts / max(1, sum(files.parts[part] for part in some)))
    return Removal(name, what, parts, num_bytes)


def _text_bytes(path: str) -> int:
    """Bytes that the column of raw texts takes in a part."""
    try:
        found = pq.read_metadata(pa.BufferReader(storage.read(path)))
    except (pa.ArrowException, OSError) as error:
        raise StorageError(f"{path} is damaged: {error}. `semievol verify` says how to go on.") from error
    groups = [found.row_group(i) for i in range(found.num_row_groups)]
    columns = [group.column(i) for group in groups for i in range(group.num_columns)]
    return sum(int(column.total_compressed_size) for column in columns if column.path_in_schema == TEXT)


def _clean_step(run: Run, removal: Removal) -> int:
    step = Step(run.path(removal.step), removal.step, removal.parts)
    record = step.record()
    mark = {"time": now(), "keep": "last_round" if removal.what == PARTS else "scalars", "removed": removal.what}
    _mark(run, step, {**record, "cleaned": {**mark, "complete": False}})
    before = storage.sizes(step.path)
    for first in range(0, len(removal.parts), BATCH):
        parts = removal.parts[first : first + BATCH]
        run.claim.check()
        if removal.what == PARTS:
            _remove_parts(step, parts)
        else:
            _remove_texts(step, parts)
    after = storage.sizes(step.path)
    freed = sum(num - after.get(path, 0) for path, num in before.items() if path.endswith(PART_SUFFIX))
    _mark(run, step, {**record, "cleaned": {**mark, "complete": True}})
    run.event("step_cleaned", step=step.name, removed=removal.what, num_bytes=freed)
    return freed


def _mark(run: Run, step: Step, record: Mapping[str, Any]) -> None:
    """Store a step.json. RunInUseError when another driver has the run by now."""
    with run.claim.held():
        storage.write(f"{step.path}/{STEP_FILE}", encode(dict(record)), run.claim.staging)


def _remove_parts(step: Step, parts: Sequence[str]) -> None:
    with ThreadPoolExecutor(NUM_READERS) as threads:
        list(threads.map(storage.remove, (step.part_path(part) for part in parts)))


def _remove_texts(step: Step, parts: Sequence[str]) -> None:
    """Rewrite parts without their texts, each at once; their new digests are stored first."""
    with ThreadPoolExecutor(NUM_READERS) as threads:
        made = list(threads.map(lambda part: _without_texts(step.part_path(part)), parts))
        facts = [PartFacts(storage.digest(data), rows) for data, rows in made]
        note_cleaned(step.path, dict(zip(parts, facts, strict=True)))
        list(threads.map(storage.write, (step.part_path(part) for part in parts), (data for data, _ in made)))


def _without_texts(path: str) -> tuple[bytes, int]:
    """A part without its texts, and its rows."""
    data = storage.read(path)
    try:
        table = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read()
    except (pa.ArrowException, OSError) as error:
        raise StorageError(f"{path} is damaged: {error}. `semievol verify` says how to go on.") from error
    index = table.schema.get_field_index(TEXT)
    bare = table.set_column(index, table.schema.field(index), pa.nulls(table.num_rows, table.schema.field(index).type))
    return storage.table_bytes(bare), table.num_rows
