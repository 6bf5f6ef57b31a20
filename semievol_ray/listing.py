"""What each part of a step holds: its SHA-256 and its rows, measured at the commit and kept as parts.json.

Invariant: the digest of a step is SHA-256 over name and digest of each part and output in order of name; how parts are
read, or by how many threads, never shows in it.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from semievol_ray import storage
from semievol_ray.errors import StorageError
from semievol_ray.records import encode, read_json

LISTING_FILE = "parts.json"
PART_SUFFIX = ".parquet"
NUM_READERS, NUM_REMOTE_READERS = 4, 16
"""Parts in memory at once while a step is hashed; reading and hashing leave Python's lock, an object store is waited
for."""


@dataclass(frozen=True)
class PartFacts:
    """What a part held when its step was committed."""

    sha256: str
    num_rows: int


def read_listing(folder: str) -> dict[str, PartFacts]:
    """part -> facts of a committed step's parts; empty before its commit. StorageError when the file is damaged."""
    path = f"{folder}/{LISTING_FILE}"
    if not storage.exists(path):
        return {}
    try:
        return {part: PartFacts(str(of["sha256"]), int(of["num_rows"])) for part, of in read_json(path).items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(
            f"{path} is damaged or was edited: it does not hold sha256 and num_rows of every part. "
            "Run `semievol verify` on this run."
        ) from error


def write_listing(folder: str, facts: Mapping[str, PartFacts], staging: str | None = None) -> None:
    """Keep what the parts of a step hold. `staging`: as storage.create."""
    storage.write(f"{folder}/{LISTING_FILE}", encode({part: asdict(of) for part, of in facts.items()}), staging)


def measured(folder: str, parts: Sequence[str]) -> dict[str, PartFacts]:
    """The facts of these parts, read now by a few threads. StorageError for the first that is damaged."""
    with ThreadPoolExecutor(num_readers(folder)) as readers:
        found = readers.map(lambda part: part_facts(f"{folder}/{part}{PART_SUFFIX}"), parts)
        return dict(zip(parts, found, strict=True))


def num_readers(folder: str) -> int:
    """How many parts of a folder are read side by side."""
    return NUM_REMOTE_READERS if storage.is_remote(folder) else NUM_READERS


def part_facts(path: str) -> PartFacts:
    """The facts of one part. StorageError when it is missing or no table."""
    return facts_in(path, storage.read(path))


def facts_in(path: str, data: bytes) -> PartFacts:
    """The facts of a part whose bytes were read from a path. StorageError when they are no table."""
    try:
        num_rows = int(pq.read_metadata(pa.BufferReader(data)).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise StorageError(
            f"{path} is damaged: {error}. `semievol verify RUN --repair` lets a run make it again."
        ) from error
    return PartFacts(storage.digest(data), num_rows)


def step_digest(facts: Mapping[str, PartFacts], outputs: Mapping[str, str]) -> str:
    """The content hash of a step; outputs: name -> digest of what it made besides parts."""
    digests = {**outputs, **{part: of.sha256 for part, of in facts.items()}}
    return storage.digest("".join(f"{name} {digests[name]}\n" for name in sorted(digests)).encode())
