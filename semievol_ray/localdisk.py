"""Files on a local disk or NFS: made by link, replaced by rename, synced before anybody hears of them.

Invariant: what fails raises OSError, and leaves neither half a file nor a temporary one.
"""

import contextlib
import errno
import fcntl
import io
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

TEMPORARY = ".tmp"
ERRORS: tuple[type[Exception], ...] = (OSError,)
_TRANSIENT = frozenset(
    getattr(errno, name)
    for name in ("EIO", "EREMOTEIO", "ESTALE", "EAGAIN", "EBUSY", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN",
                 "ENETUNREACH", "ENETRESET", "ECONNRESET", "ECONNREFUSED", "ECONNABORTED", "ENOTCONN", "ENOLCK")
    if hasattr(errno, name)
)  # fmt: skip
_REMEDIES = {
    errno.ENOSPC: "Free some space on that disk or name another folder, then run the same command again.",
    errno.EDQUOT: "Your quota there is used up: free some space or name another folder, then run again.",
    errno.EACCES: "Name a folder you may write to, or ask for permission on this one.",
    errno.EPERM: "Name a folder you may write to, on a file system with hard links.",
    errno.EROFS: "That file system is read-only: name a folder on another one.",
    errno.ENOENT: "Check the spelling, and that the disk it lies on is mounted.",
    errno.ENOTDIR: "A part of that path is a file, not a folder: name another path.",
    errno.EXDEV: "A run directory lies on one file system: put what was moved out of it back.",
    errno.EISDIR: "That is a folder, and a file was expected: name another path.",
}


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed in a moment: a server away, a stale handle, a lost answer."""
    return isinstance(error, OSError) and error.errno in _TRANSIENT


def is_repeating(_: str) -> bool:
    """Whether a create may find its own file in the way at its first try; `create` itself sees to that on NFS."""
    return False


def reason(error: BaseException) -> str:
    """What the system says of a failure."""
    return str(getattr(error, "strerror", None) or error)


def remedy(error: BaseException, _: str) -> str:
    """What to do about a failure."""
    number = getattr(error, "errno", None) or 0
    return _REMEDIES.get(number, "Check the disk it lies on, then run the same command again.")


def create(path: str, data: bytes, staging: str | None = None) -> bool:
    """Store a new file; False when the path exists."""
    target = Path(path)
    if target.exists():
        return False
    with _temporary(target, data, staging) as temporary:
        try:
            os.link(temporary, target)
        except FileExistsError:
            # NFS repeats a request whose answer was lost: the name may be ours, and then the file has two
            if temporary.stat().st_nlink < 2:
                return False
    _sync_folder(target.parent)
    return True


def write(path: str, data: bytes, staging: str | None = None) -> None:
    """Store a file in place of an older one."""
    target = Path(path)
    with _temporary(target, data, staging) as temporary:
        temporary.replace(target)
    _sync_folder(target.parent)


def read(path: str) -> bytes:
    """The bytes of a file."""
    return Path(path).read_bytes()


def read_from(path: str, offset: int) -> tuple[int, bytes]:
    """The size of a file and its bytes from an offset on, or so many of its last where that is below 0.

    A missing file is an empty one.
    """
    try:
        with Path(path).open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(min(offset, size) if offset >= 0 else max(0, size + offset))
            return size, file.read()
    except FileNotFoundError:
        return 0, b""


def opened(path: str) -> io.BufferedReader:
    """A file open for reading."""
    return Path(path).open("rb")


def exists(path: str) -> bool:
    """Whether a file or folder is there; where that cannot be known, OSError."""
    return Path(path).exists()


def names(folder: str) -> list[str]:
    """Names in a folder; none when it is missing."""
    try:
        return [entry.name for entry in os.scandir(folder) if not entry.name.endswith(TEMPORARY)]
    except FileNotFoundError:
        return []


def find(folder: str, name: str) -> list[str]:
    """Folders at or below `folder`, relative, that hold a file `name`; not looked below a find."""
    found = []
    for here, folders, files in os.walk(folder, onerror=_unless_gone):
        if name in files:
            found.append(Path(here).relative_to(folder).as_posix())
            folders.clear()
    return found


def sizes(folder: str) -> dict[str, int]:
    """Path below `folder` -> bytes, of every finished file."""
    found = {}
    for here, _, files in os.walk(folder, onerror=_unless_gone):
        under = os.path.relpath(here, folder)
        for name in files:
            if not name.endswith(TEMPORARY):
                with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                    found[name if under == "." else f"{under}/{name}"] = (Path(here) / name).stat().st_size
    return found


def remove(path: str) -> None:
    """Delete a file, if it is there."""
    Path(path).unlink(missing_ok=True)


def remove_folder(folder: str) -> None:
    """Delete a folder and what is in it, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def withdraw(folder: str) -> None:
    """Let nothing that is made in a folder come out of it from here on, whoever works there; then delete it."""
    away = f"{folder}.{uuid.uuid4().hex}{TEMPORARY}"
    with contextlib.suppress(FileNotFoundError):
        Path(folder).rename(away)
        shutil.rmtree(away, ignore_errors=True)  # on NFS a name may stand while somebody has its file open


def make_folder(path: str) -> None:
    """Make a folder and those above it."""
    Path(path).mkdir(parents=True, exist_ok=True)


def put(source: str, path: str) -> None:
    """Copy a local file to a path, whole or not at all."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}{TEMPORARY}")
    try:
        shutil.copyfile(source, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def appending(path: str, data: bytes) -> Callable[[], None]:
    """An action that adds whole lines to a file in one write and syncs them; a torn last line is ended first.

    Called again after a failure it adds them only if they are not there already.
    """
    began: list[int] = []

    def append() -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(target, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            size = os.fstat(handle).st_size
            if not (began and data in os.pread(handle, size - began[0], began[0])):
                began[:] = began or [size]
                torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
                if os.write(handle, b"\n" * torn + data) < torn + len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(handle)
        finally:
            os.close(handle)

    return append


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Held by one process of this machine at a time; where the file system has no locks, by any number."""
    make_folder(str(Path(path).parent))
    with Path(path).open("ab") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _temporary(target: Path, data: bytes, staging: str | None) -> Iterator[Path]:
    """A synced file with `data` in `staging`, else beside `target`, gone on leaving unless it was renamed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # os.open and not tempfile: on a shared cluster the umask, not 0600, decides who may read a run
    temporary = Path(staging or target.parent, f".{target.name}.{uuid.uuid4().hex}{TEMPORARY}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _unless_gone(error: OSError) -> None:
    """A folder that cannot be listed must not pass for an empty one; one that is missing is empty."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
