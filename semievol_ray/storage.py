"""Files of a run, on disk or in an object store: created once and whole, replaced, appended a line at a time, listed.

Invariant: no reader ever sees half of what `create` or `write` stored, whichever side it lies on, and every failure
leaves here as a StorageError that names the path and what to do; one of a moment is first tried again.
"""

import hashlib
import io
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from semievol_ray import addresses, localdisk, objectstore
from semievol_ray.backoff import Backoff, retried
from semievol_ray.errors import SemievolError, StorageError

_T = TypeVar("_T")
BACKOFF = Backoff()
"""How long what fails for a moment is tried again."""

_NUM_THREADS = 16


def is_remote(path: str) -> bool:
    """Whether a path is an address (s3://, gs://) and not one on this machine."""
    return addresses.is_url(path)


def check_address(path: str) -> None:
    """Raises StorageError for an address of another scheme than s3:// and gs://, or with a user or password in it."""
    if is_remote(path):
        addresses.scheme_of(path)


def absolute(path: str) -> str:
    """A local path made absolute; an address as it is, without a slash at its end. Errors: as `check_address`."""
    check_address(path)
    return path.rstrip("/") if is_remote(path) else str(Path(path).absolute())


def attempt(path: str, verb: str, action: Callable[[], _T]) -> _T:
    """What an action on a path returns, tried again while its failures are of a moment. Errors: StorageError."""
    disk: Any = _disk(path)
    check_address(path)
    try:
        return retried(action, disk.is_transient, BACKOFF, f"storage: to {verb} {path}")
    except SemievolError:
        raise
    except disk.ERRORS as error:
        raise StorageError(f"cannot {verb} {path}: {disk.reason(error)}. {disk.remedy(error, path)}") from error


def create(path: str, data: bytes, staging: str | None = None) -> bool:
    """Store a new file, whole or not at all; False, and nothing changed, when the path already exists.

    On a disk it is made whole in the folder `staging` first, and not stored where that was withdrawn: StorageError.
    Of any number of processes that race for one path exactly one gets True. Where the answer to a try was lost, what
    lies there tells: with these very bytes in it, it counts as ours. Missing folders are made.
    """
    disk = _disk(path)
    check_address(path)
    unsure = disk.is_repeating(path)

    def once() -> bool:
        nonlocal unsure
        sure, unsure = not unsure, True
        if disk.create(path, data, staging):
            return True
        if sure:
            return False
        return bool(disk.read(path) == data)

    return attempt(path, "create", once)


def write(path: str, data: bytes, staging: str | None = None) -> None:
    """Store a file, replacing an older one atomically. Missing folders are made. `staging`: as `create`."""
    attempt(path, "write", lambda: _disk(path).write(path, data, staging))


def read(path: str) -> bytes:
    """The bytes of a file."""
    return bytes(attempt(path, "read", lambda: _disk(path).read(path)))


def open_read(path: str) -> io.BufferedReader:
    """A file open for reading and seeking; of an object only what is read is fetched, 8 MiB at least at a time."""
    if not is_remote(path):
        return attempt(path, "read", lambda: localdisk.opened(path))

    def ranged(start: int, end: int) -> bytes:
        return attempt(path, "read", lambda: objectstore.read_range(path, start, end))

    return attempt(path, "read", lambda: objectstore.opened(path, ranged))


def identity(url: str) -> str | None:
    """Size and checksum of an object as its store tells them; None where it keeps no checksum."""
    return attempt(url, "look at", lambda: objectstore.identity(url))


def exists(path: str) -> bool:
    """Whether the path is there: a file or a folder; in an object store, which has no folders, an object."""
    return bool(attempt(path, "look at", lambda: _disk(path).exists(path)))


def names(folder: str, suffix: str = "") -> list[str]:
    """Sorted names in a folder that end in `suffix`; none when the folder is missing. Unfinished files are left out."""
    found: Iterable[str] = attempt(folder, "list", lambda: _disk(folder).names(folder))
    return sorted(name for name in found if name.endswith(suffix))


def find(folder: str, name: str) -> list[str]:
    """Folders at or below `folder`, relative to it and sorted, that hold a file `name`; not looked below a find."""
    found: list[str] = attempt(folder, "list", lambda: _disk(folder).find(folder, name))
    return sorted(found)


def sizes(folder: str) -> dict[str, int]:
    """Path below `folder`, relative to it -> bytes, of every finished file; empty when the folder is missing."""
    return dict(attempt(folder, "list", lambda: _disk(folder).sizes(folder)))


def remove(path: str) -> None:
    """Delete a file; nothing happens when it is gone already."""
    attempt(path, "remove", lambda: _disk(path).remove(path))


def remove_folder(folder: str) -> None:
    """Delete a folder and everything in it; nothing happens when it is gone already."""
    if not is_remote(folder):
        attempt(folder, "remove", lambda: localdisk.remove_folder(folder))
        return
    with ThreadPoolExecutor(_NUM_THREADS) as threads:
        list(threads.map(remove, [f"{folder}/{name}" for name in sizes(folder)]))


def make_folder(path: str) -> None:
    """Make a folder and those above it, where missing."""
    attempt(path, "make the folder", lambda: _disk(path).make_folder(path))


def withdraw(folder: str) -> None:
    """Delete a folder that served as `staging`: from here on nothing that was begun there is stored."""
    attempt(folder, "withdraw", lambda: _disk(folder).withdraw(folder))


def append_line(path: str, text: str) -> None:
    """Add one line at the end; see `append_lines`."""
    append_lines(path, [text])


def append_lines(path: str, texts: Sequence[str]) -> None:
    """Add lines at the end, in one write, stored when this returns; on disk a torn last line is ended first.

    An object cannot grow: there the lines become one numbered object below `<path>.d/`, which `lines` reads too.
    """
    assert not any("\n" in text for text in texts), "one line at a time"
    data = "".join(f"{text}\n" for text in texts).encode()
    if not is_remote(path):
        attempt(path, "append to", localdisk.appending(path, data))
        return
    if not create(_numbered(path, 0), data):
        append_numbered(path, texts, len(names(f"{path}.d")))


def append_numbered(path: str, texts: Sequence[str], number: int) -> int:
    """Add lines as the first free object at or after a number (0 for a new file); the number to go on with."""
    data = "".join(f"{text}\n" for text in texts).encode()
    while not create(_numbered(path, number), data):
        number += 1
    return number + 1


def _numbered(path: str, number: int) -> str:
    return f"{path}.d/{number:08d}"


def lines(path: str) -> list[str]:
    """The non-empty lines of a text file and of what was appended to it; none when it is missing."""
    data = read(path) if exists(path) else b""
    if is_remote(path):
        data += b"\n" + b"".join(read_all([f"{path}.d/{name}" for name in names(f"{path}.d")]))
    return [line for line in data.decode(errors="replace").split("\n") if line]


def read_from(path: str, offset: int) -> tuple[int, bytes]:
    """The size of a file on disk and its bytes from an offset on, or its last -offset bytes; of a missing one none."""
    return attempt(path, "read", lambda: localdisk.read_from(path, offset))


def read_all(paths: Sequence[str]) -> list[bytes]:
    """The bytes of several files, read side by side, in order."""
    if not paths:
        return []
    with ThreadPoolExecutor(min(_NUM_THREADS, len(paths))) as threads:
        return list(threads.map(read, paths))


def remove_lines(path: str) -> None:
    """Delete a file of lines, and what was appended to it."""
    remove(path)
    if is_remote(path):
        remove_folder(f"{path}.d")


def check_conditional_create(root: str) -> None:
    """Raises StorageError when the store behind `root` lets a second create replace the first: no lease would hold."""
    probe = f"{root}/.probe-{uuid.uuid4().hex}"
    is_kept = create(probe, b"first") and not create(probe, b"second")
    remove(probe)
    if not is_kept:
        raise StorageError(
            f"{root}: this object store ignores the condition that a new object must not exist yet (If-None-Match), "
            "so that two drivers could hold one run. AWS S3, Google Cloud Storage, MinIO and Cloudflare R2 "
            "keep it: use such a store, or a shared folder."
        )


def create_table(path: str, table: pa.Table, staging: str | None = None) -> bool:
    """Store a table as parquet through `create`; equal rows under one schema give equal bytes.

    Metadata and chunk borders of `table` are dropped; pages carry checksums, which `read_table` verifies.
    """
    return create(path, table_bytes(table), staging)


def table_bytes(table: pa.Table) -> bytes:
    """A table as `create_table` stores it."""
    plain = table.replace_schema_metadata(None).combine_chunks()
    sink = pa.BufferOutputStream()
    pq.write_table(plain, sink, compression="zstd", write_page_checksum=True)
    return bytes(sink.getvalue().to_pybytes())


def read_table(path: str, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """The table at a path, with exactly the columns of `schema`; StorageError when damaged or of other columns.

    With `columns` only these are decoded and returned, in their order in the file; the others are not looked into.
    """
    return table_in(path, read(path), schema, columns)


def table_in(path: str, data: bytes, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """The table in the bytes that were read from a path, as `read_table` returns it."""
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        table = file.read(None if columns is None else list(columns), use_threads=False)  # parts are small
    except (pa.ArrowException, OSError) as error:
        raise StorageError(
            f"{path} is damaged: {error}. `semievol verify RUN --repair` lets a run make it again."
        ) from error
    if not file.schema_arrow.equals(schema, check_metadata=False):
        raise StorageError(
            f"{path} has the columns ({_columns(file.schema_arrow)}) where ({_columns(schema)}) were expected: "
            "it was made by another version of semievol-ray or by something else. Use another run directory."
        )
    return table.replace_schema_metadata(None)


def num_rows(path: str) -> int:
    """The number of rows of a table, from its footer."""
    with open_read(path) as file:
        try:
            return int(pq.read_metadata(file).num_rows)
        except (pa.ArrowException, OSError) as error:
            raise StorageError(
                f"{path} is damaged: {error}. `semievol verify RUN --repair` lets a run make it again."
            ) from error


def digest(data: bytes) -> str:
    """SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)


def _disk(path: str) -> ModuleType:
    return objectstore if is_remote(path) else localdisk
