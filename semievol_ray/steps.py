"""A step's folder: its step.json, its parts, the attempts at them, and the content hash they commit to.

Invariant: a part is whole or absent; a step counts only once `committed` is in its step.json.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from semievol_ray import storage
from semievol_ray.errors import StorageError, UserError
from semievol_ray.lease import is_superseded, superseded

STEP_FILE = "step.json"
_PART = ".parquet"


@dataclass(frozen=True)
class Step:
    """One step's folder, as a plain value that travels into Ray actors.

    path: absolute folder. name: the folder relative to the run directory. parts: names in input order.
    fence: the driver's; a worker whose driver was taken over commits nothing. None: not checked.
    """

    path: str
    name: str
    parts: tuple[str, ...]
    fence: int | None = None

    def part_path(self, part: str) -> str:
        """Where a part lies once it is committed."""
        return f"{self.path}/{part}{_PART}"

    def has_part(self, part: str) -> bool:
        """Whether a part is committed."""
        return storage.exists(self.part_path(part))

    def missing_parts(self) -> tuple[str, ...]:
        """The parts left to do, in input order, by one listing of the folder."""
        there = set(storage.names(self.path, _PART))
        return tuple(part for part in self.parts if part + _PART not in there)

    def commit_part(self, part: str, table: pa.Table) -> bool:
        """Store a part; False when another worker was first, whose part then stands: go on with `read_part`."""
        assert part in self.parts, part
        root = self.path.removesuffix(f"/{self.name}")
        if self.fence is not None and is_superseded(root, self.fence):
            raise superseded(root, self.fence)
        return storage.create_table(self.part_path(part), table)

    def read_part(self, part: str, schema: pa.Schema) -> pa.Table:
        """A committed part, with the columns of `schema`."""
        return storage.read_table(self.part_path(part), schema)

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
        """The content of step.json."""
        return read_json(f"{self.path}/{STEP_FILE}")

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

    def _attempts_path(self, part: str) -> str:
        return f"{self.path}/attempts/{part}.jsonl"


def read_steps(root: str) -> list[tuple[str, dict[str, Any]]]:
    """Name and step.json of every step begun in a run directory, in the order in which they began."""
    steps = [(name, read_json(f"{root}/{name}/{STEP_FILE}")) for name in storage.find(root, STEP_FILE)]
    return sorted(steps, key=lambda step: (step[1]["started"], step[0]))


def contents(step: Step, outputs: Mapping[str, str]) -> tuple[str, int]:
    """The digest of a step, over name and SHA-256 of each part and output in order of name, and its number of rows."""
    digests, num_rows = dict(outputs), 0
    for part in step.parts:
        data = storage.read(step.part_path(part))
        digests[part] = storage.digest(data)
        try:
            num_rows += pq.read_metadata(pa.BufferReader(data)).num_rows
        except (pa.ArrowException, OSError) as error:
            raise StorageError(f"{step.part_path(part)} is damaged: {error}. Delete it and run again.") from error
    listing = "".join(f"{name} {digests[name]}\n" for name in sorted(digests))
    return storage.digest(listing.encode()), num_rows


def now() -> str:
    """The time in UTC, in a form that sorts."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def encode(value: object) -> bytes:
    """A value as JSON text."""
    return json.dumps(value, indent=1).encode()


def read_json(path: str) -> dict[str, Any]:
    """The object in a JSON file; StorageError when damaged."""
    found: dict[str, Any]
    data = storage.read(path)
    try:
        found = json.loads(data)
    except ValueError as error:
        raise StorageError(f"{path} is damaged: {error}. Delete its folder and run again.") from error
    return found


def json_lines(path: str) -> list[dict[str, Any]]:
    """The objects in a file of JSON lines, torn lines left out; none when the file is missing."""
    found = []
    for line in storage.lines(path):
        try:
            found.append(json.loads(line))
        except ValueError:  # torn by a full disk or a power cut; the next writer began a new line
            continue
    return found
