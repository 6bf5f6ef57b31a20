"""A step's folder: its step.json, its parts, the attempts at them, and the content hash they commit to.

Invariant: a part is whole or absent; a step counts only once `committed` is in its step.json.
"""

import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from semievol_ray import cleaned, storage
from semievol_ray.errors import RunInUseError, StorageError, UserError
from semievol_ray.lease import Claim
from semievol_ray.listing import PART_SUFFIX, PartFacts, facts_in, num_readers, read_listing
from semievol_ray.records import Fields, json_lines, now, read_record, require_fields

STEP_FILE = "step.json"
_FIELDS: Fields = {"name": str, "started": str, "settings": dict, "inputs": dict, "parts": list, "numerics": dict}
_COMMITTED: Fields = {"digest": str, "num_rows": int, "metrics": dict, "seconds": (int, float), "time": str}


@dataclass(frozen=True)
class Step:
    """One step's folder, as a plain value that travels into Ray actors.

    path: absolute folder. name: the folder relative to the run directory. parts: names in input order.
    fence: the driver's; a worker whose driver was taken over commits nothing. None: not checked.
    begun: `started` of the step.json that the parts belong to; another one means that the folder was made anew.
    token: of the driver's lease; a run directory that was deleted and made anew counts its fences from 1 again.
    """

    path: str
    name: str
    parts: tuple[str, ...]
    fence: int | None = None
    begun: str | None = None
    token: str = ""

    @property
    def root(self) -> str:
        """The run directory."""
        return self.path.removesuffix(f"/{self.name}")

    def part_path(self, part: str) -> str:
        """Where a part lies once it is committed."""
        return f"{self.path}/{part}{PART_SUFFIX}"

    def has_part(self, part: str) -> bool:
        """Whether a part is committed."""
        return storage.exists(self.part_path(part))

    def missing_parts(self) -> tuple[str, ...]:
        """The parts left to do, in input order, by one listing of the folder; none of a step that was cleaned."""
        there = set(storage.names(self.path, PART_SUFFIX))
        missing = tuple(part for part in self.parts if part + PART_SUFFIX not in there)
        return () if missing and self.removed() == cleaned.PARTS else missing

    def removed(self) -> str:
        """What `semievol clean` removed of this step: cleaned.PARTS, cleaned.TEXTS, or "" for nothing."""
        known = storage.exists(f"{self.path}/{STEP_FILE}")
        return cleaned.removed(read_step_record(self.path)) if known else ""

    def commit_part(self, part: str, table: pa.Table) -> bool:
        """Store a part; False when another worker was first, whose part then stands: go on with `read_part`.

        RunInUseError when the driver was taken over; on a disk nothing of it is stored then.
        """
        assert part in self.parts, part
        claim = self._claim
        if claim is None:
            return storage.create_table(self.part_path(part), table)
        with claim.held():
            is_ours = storage.create_table(self.part_path(part), table, claim.staging)
        try:
            claim.check()
        except RunInUseError:
            # in an object store what stood still between check and create has landed, maybe in another's folder by now
            if is_ours and not self._stands():
                storage.remove(self.part_path(part))
            raise
        return is_ours

    def read_part(self, part: str, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
        """A committed part, with the columns of `schema` or those that `columns` names; UserError if it was cleaned."""
        return storage.table_in(self.part_path(part), self._stored(part), schema, columns)

    def read_parts(self, schema: pa.Schema, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All parts in order, as `read_part` gives them; a few are read ahead, and no more are held."""
        ahead, waiting = num_readers(self.path), deque[Future[pa.Table]]()
        with ThreadPoolExecutor(ahead) as readers:
            for part in self.parts:
                waiting.append(readers.submit(self.read_part, part, schema, columns))
                if len(waiting) == ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def measure_part(self, part: str, schema: pa.Schema, columns: Sequence[str]) -> tuple[PartFacts, pa.Table]:
        """What a commit notes of a part, and columns of it, from the same bytes, read once. Errors: as `read_part`."""
        path, data = self.part_path(part), self._stored(part)
        return facts_in(path, data), storage.table_in(path, data, schema, columns)

    def _stored(self, part: str) -> bytes:
        try:
            return storage.read(self.part_path(part))
        except StorageError as error:
            if self.removed() == cleaned.PARTS:
                raise cleaned.taken_away(self.path, self.record()) from error
            if not self.has_part(part):
                raise StorageError(
                    f"{self.part_path(part)} is gone. `semievol verify {self.root} --repair` lets it be made again."
                ) from error
            raise

    def num_rows(self, parts: Sequence[str] | None = None) -> int:
        """Rows of these committed parts, all of the step when None."""
        return sum(self.lengths(parts))

    def lengths(self, parts: Sequence[str] | None = None) -> list[int]:
        """Rows of each of these committed parts, all when None: from the list of a committed step, else footers."""
        wanted = self.parts if parts is None else tuple(parts)
        known = {part: of.num_rows for part, of in read_listing(self.path).items()} if wanted else {}
        others = [part for part in wanted if part not in known]
        with ThreadPoolExecutor(num_readers(self.path)) as readers:
            known.update(zip(others, readers.map(storage.num_rows, map(self.part_path, others)), strict=True))
        return [known[part] for part in wanted]

    def begin_attempt(self, part: str, **fields: object) -> int:
        """Note that work on a part begins, before it does; the number of this attempt, from 1."""
        number = len(storage.lines(self._attempts_path(part))) + 1
        record = {"attempt": number, "time": now(), "fence": self.fence, **fields}
        storage.append_line(self._attempts_path(part), json.dumps(record))
        return number

    def attempts(self, part: str) -> list[dict[str, Any]]:
        """What `begin_attempt` noted for a part, oldest first."""
        return json_lines(self._attempts_path(part))

    def record(self) -> dict[str, Any]:
        """The content of step.json; StorageError when it is damaged, lacks a field or is of another beginning."""
        found = read_step_record(self.path)
        if self.begun not in (None, found["started"]):
            raise StorageError(
                f"{self.path}/{STEP_FILE} was replaced while this run used it, by hand or by a driver that was taken "
                "over. Delete that folder and run the same command again."
            )
        return found

    def committed(self) -> dict[str, Any] | None:
        """{time, digest, num_rows, metrics, seconds, fence} once the step is committed, else None."""
        return self.record().get("committed")

    def digest(self) -> str:
        """The content hash of the committed step; UserError before that."""
        committed = self.committed()
        if committed is None:
            raise UserError(f"step {self.name} in {self.path} has not ended yet. Run the same command again first.")
        return str(committed["digest"])

    def numerics(self) -> dict[str, Any]:
        """The numerics this step was begun with, whatever the configuration says now."""
        return dict(self.record()["numerics"])

    @property
    def _claim(self) -> Claim | None:
        return None if self.fence is None else Claim(self.root, self.fence, self.token)

    def _stands(self) -> bool:
        """Whether the folder is still the one in which this step was begun."""
        return storage.exists(f"{self.path}/{STEP_FILE}") and read_step_record(self.path)["started"] == self.begun

    def _attempts_path(self, part: str) -> str:
        return f"{self.path}/attempts/{part}.jsonl"


def read_steps(root: str) -> list[tuple[str, dict[str, Any]]]:
    """Name and step.json of every step begun in a run directory, in the order in which they began."""
    steps = [(name, read_step_record(f"{root}/{name}")) for name in storage.find(root, STEP_FILE)]
    return sorted(steps, key=lambda step: (step[1]["started"], step[0]))


def read_step_record(folder: str) -> dict[str, Any]:
    """The content of a folder's step.json; StorageError when it is damaged or lacks a field."""
    path = f"{folder}/{STEP_FILE}"
    record = read_record(path, _FIELDS)
    if committed := record.get("committed"):
        require_fields(path, record, {"committed": dict})
        require_fields(path, committed, _COMMITTED, "committed.")
    return record
