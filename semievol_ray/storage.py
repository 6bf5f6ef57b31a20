"""Files of a run: created once and whole, replaced atomically, appended a line at a time, listed.

Invariant: no reader ever sees half of what `create` or `write` stored, and every failure of the file system leaves here
as a StorageError that names the path and what to do. Paths are local; one with a scheme is refused.
"""

import contextlib
import errno
import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from semievol_ray.errors import StorageError

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")
_TEMPORARY = ".tmp"
_REMEDIES = {
    errno.ENOSPC: "Free some space on that disk or name another folder, then run the same command again.",
    errno.EDQUOT: "Your quota there is used up: free some space or name another folder, then run again.",
    errno.EACCES: "Name a folder you may write to, or ask for permission on this one.",
    errno.EPERM: "Name a folder you may write to, on a file system with hard links.",
    errno.EROFS: "That file system is read-only: name a folder on another one.",
    errno.ENOENT: "Check the spelling, and that the disk it lies on is mounted.",
    errno.ENOTDIR: "A part of that path is a file, not a folder: name another path.",
    errno.EISDIR: "That is a folder, and a file was expected: name another path.",
}


def create(path: str, data: bytes) -> bool:
    """Store a new file, whole or not at all; False, and nothing changed, when the path already exists.

    Of any number of processes that race for one path exactly one gets True. Missing folders are made.
    """
    with _translated(path, "create"):
        target = _local(path)
        if target.exists():
            return False
        with _temporary(target, data) as temporary:
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
        _sync_folder(target.parent)
        return True


def write(path: str, data: bytes) -> None:
    """Store a file, replacing an older one atomically. Missing folders are made."""
    with _translated(path, "write"):
        target = _local(path)
        with _temporary(target, data) as temporary:
            temporary.replace(target)
        _sync_folder(target.parent)


def read(path: str) -> bytes:
    """The bytes of a file."""
    with _translated(path, "read"):
        return _local(path).read_bytes()


def exists(path: str) -> bool:
    """Whether the path is there."""
    with _translated(path, "look at"):
        return _local(path).exists()


def names(folder: str, suffix: str = "") -> list[str]:
    """Sorted names in a folder that end in `suffix`; none when the folder is missing. Unfinished files are left out."""
    with _translated(folder, "list"):
        try:
            found = [entry.name for entry in os.scandir(_local(folder))]
        except FileNotFoundError:
            return []
        return sorted(name for name in found if name.endswith(suffix) and not name.endswith(_TEMPORARY))


def find(folder: str, name: str) -> list[str]:
    """Folders at or below `folder`, relative to it and sorted, that hold a file `name`; not looked below a find."""
    found = []
    with _translated(folder, "list"):
        start = _local(folder)
        for here, folders, files in os.walk(start):
            if name in files:
                found.append(Path(here).relative_to(start).as_posix())
                folders.clear()
    return sorted(found)


def remove(path: str) -> None:
    """Delete a file; nothing happens when it is gone already."""
    with _translated(path, "remove"):
        _local(path).unlink(missing_ok=True)


def make_folder(path: str) -> None:
    """Make a folder and those above it, where missing."""
    with _translated(path, "make the folder"):
        _local(path).mkdir(parents=True, exist_ok=True)


def append_line(path: str, text: str) -> None:
    """Add one line at the end, in one write, on the disk when this returns; a torn last line is ended first."""
    assert "\n" not in text, "one line at a time"
    with _translated(path, "append to"):
        target = _local(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(target, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            size = os.fstat(handle).st_size
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            data = ("\n" * torn + text + "\n").encode()
            if os.write(handle, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(handle)
        finally:
            os.close(handle)


def lines(path: str) -> list[str]:
    """The non-empty lines of a text file; none when it is missing."""
    if not exists(path):
        return []
    return [line for line in read(path).decode(errors="replace").split("\n") if line]


def create_table(path: str, table: pa.Table) -> bool:
    """Store a table as parquet through `create`; equal rows under one schema give equal bytes.

    Metadata and chunk borders of `table` are dropped; pages carry checksums, which `read_table` verifies.
    """
    plain = table.replace_schema_metadata(None).combine_chunks()
    sink = pa.BufferOutputStream()
    pq.write_table(plain, sink, compression="zstd", write_page_checksum=True)
    return create(path, sink.getvalue().to_pybytes())


def read_table(path: str, schema: pa.Schema) -> pa.Table:
    """The table at a path, with exactly the columns of `schema`; StorageError when damaged or of other columns."""
    data = read(path)
    try:
        table = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read()
    except (pa.ArrowException, OSError) as error:
        raise StorageError(
            f"{path} is damaged: {error}. Delete the folder of this step and run the same command again."
        ) from error
    if not table.schema.equals(schema, check_metadata=False):
        raise StorageError(
            f"{path} has the columns ({_columns(table.schema)}) where ({_columns(schema)}) were expected: "
            "it was made by another version of semievol-ray or by something else. Use another run directory."
        )
    return table.replace_schema_metadata(None)


def num_rows(path: str) -> int:
    """The number of rows of a table, from its footer."""
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise StorageError(f"{path} cannot be read: {error}. Run the same command again.") from error


def digest(data: bytes) -> str:
    """SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)


def _local(path: str) -> Path:
    if _SCHEME.match(path):
        raise StorageError(f"{path} is not on a local disk, and only local paths are supported. Name a local folder.")
    return Path(path)


@contextlib.contextmanager
def _temporary(target: Path, data: bytes) -> Iterator[Path]:
    """A synced file with `data` beside `target`, gone on leaving unless it was renamed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # os.open and not tempfile: on a shared cluster the umask, not 0600, decides who may read a run
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}{_TEMPORARY}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _translated(path: str, verb: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "Check the disk it lies on, then run the same command again.")
        raise StorageError(f"cannot {verb} {path}: {error.strerror or error}. {remedy}") from error
