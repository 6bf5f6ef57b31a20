"""Whole folders: stored from this machine, and brought to it.

Invariant: a copy is made once per content and machine, and appears when all of its files are there.
"""

import contextlib
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from semievol_ray import localdisk, objectstore, storage
from semievol_ray.errors import StorageError

_NUM_THREADS = 16


def put_folder(local: str, folder: str) -> None:
    """Store every file below a local folder under the same name below `folder`, replacing what is there."""
    with ThreadPoolExecutor(_NUM_THREADS) as threads:
        list(threads.map(lambda name: put_file(f"{local}/{name}", f"{folder}/{name}"), storage.sizes(local)))


def put_file(local: str, path: str) -> None:
    """Store a local file at a path, whole, in place of an older one."""
    if Path(local).is_file():
        storage.attempt(path, "write", lambda: (objectstore if storage.is_remote(path) else localdisk).put(local, path))
    else:
        storage.read(local)  # its own error, for the missing file is this one


def local_copy(folder: str, keep: Callable[[str], bool] | None = None) -> str:
    """A local folder with the files of `folder`: itself when local, else a download, made once per content and node.

    keep: which names, relative to the folder, to fetch; all when None. Raises StorageError when there is none.
    """
    storage.check_address(folder)
    if not storage.is_remote(folder):
        return folder
    folder = folder.rstrip("/")
    held = storage.attempt(folder, "list", lambda: objectstore.listing(folder))
    held = {name: facts for name, facts in held.items() if keep is None or keep(name)}
    if not held:
        raise StorageError(f"{folder} holds no files to read. Check the spelling, and that the bucket exists.")
    copy = f"{cache_folder()}/copies/{storage.digest(repr([folder, sorted(held.items())]).encode())}"
    with locked(f"{copy}.lock"):
        if not Path(copy).exists():
            _download(folder, list(held), copy)
    return copy


def cache_folder() -> str:
    """Where this user's downloads lie: SEMIEVOL_CACHE, else semievol_ray in XDG_CACHE_HOME or ~/.cache."""
    if chosen := os.environ.get("SEMIEVOL_CACHE"):
        return str(Path(chosen).expanduser().absolute())
    return str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "semievol_ray")


@contextlib.contextmanager
def local_folder(folder: str) -> Iterator[str]:
    """A folder on this machine to write into, stored as `folder` when the block ends well; itself where it is local."""
    if not storage.is_remote(folder):
        storage.make_folder(folder)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="semievol-") as scratch:
        yield scratch
        put_folder(scratch, folder)


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Held by one process of this machine at a time, by a lock file at `path`. Raises StorageError."""
    with contextlib.ExitStack() as held:
        storage.attempt(path, "write", lambda: held.enter_context(localdisk.locked(path)))
        yield


def _download(folder: str, files: Sequence[str], target: str) -> None:
    """Fetch files into a new folder, which appears when all are there."""
    begun = f"{target}.{uuid.uuid4().hex}.tmp"

    def fetch(name: str) -> None:
        storage.make_folder(os.path.dirname(f"{begun}/{name}"))  # noqa: PTH120
        storage.attempt(f"{folder}/{name}", "read", lambda: objectstore.get(f"{folder}/{name}", f"{begun}/{name}"))

    try:
        with ThreadPoolExecutor(_NUM_THREADS) as threads:
            list(threads.map(fetch, files))
        storage.attempt(target, "make the folder", lambda: os.rename(begun, target))  # noqa: PTH104
    finally:
        localdisk.remove_folder(begun)
