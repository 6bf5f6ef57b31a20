"""Which files a path of a data set names: one file, the files of a folder, or those that a pattern fits.

Invariant: the files are of one kind, in order of their names, and an empty one is none of them.
"""

import glob
import hashlib
import io
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from semievol_ray import storage
from semievol_ray.errors import DataError, StorageError
from semievol_ray.stages.files import opened, source_digest
from semievol_ray.stages.hub import is_hub

KINDS = (".csv", ".jsonl", ".ndjson", ".parquet")
_PATTERN = frozenset("*?[")


def file_sizes(path: str) -> dict[str, int]:
    """File -> bytes of what a path names; a hub's data set, and a file that is missing, have 0.

    Raises DataError for a folder or pattern of no files, of only empty ones, or of several kinds.
    """
    found = None if is_hub(path) else _remote(path) if storage.is_remote(path) else _local(path)
    if found is None:
        return {path: _size(path)}
    kinds = sorted({PurePosixPath(file).suffix.lower() for file in found})
    if not found:
        raise DataError(f"{path}: there is no .csv, .jsonl or .parquet file of that name. Check the path under data:.")
    if len(kinds) > 1:
        raise DataError(
            f"{path} names {' and '.join(kinds)} files; the files of one data set are of one kind. Name those to read "
            "with a pattern such as folder/*.jsonl."
        )
    if not (filled := {file: size for file, size in sorted(found.items()) if size}):
        raise DataError(f"{path} holds no rows: all {len(found)} files are empty. Give a file with at least one row.")
    return filled


def files_of(path: str) -> tuple[str, ...]:
    """The files that a path names, itself where it is one. Raises DataError as `file_sizes` does."""
    return tuple(file_sizes(path))


def sources_digest(path: str, files: Sequence[str]) -> str:
    """The digest of what a path names: of its one file, or of the digests of several in their order."""
    if tuple(files) == (path,):
        return source_digest(path)
    return hashlib.sha256("".join(f"{source_digest(file)}\n" for file in files).encode()).hexdigest()


def _local(path: str) -> dict[str, int] | None:
    """The files of a folder or a pattern; None for a path that is neither."""
    if Path(path).is_dir():
        files = [file for file in Path(path).iterdir() if file.name[0] not in "._"]
    elif _PATTERN & set(path) and not Path(path).exists():
        files = [Path(file) for file in glob.iglob(path, recursive=True)]  # noqa: PTH207 - the pattern is absolute
    else:
        return None
    return {str(file): file.stat().st_size for file in files if file.suffix.lower() in KINDS and file.is_file()}


def _remote(path: str) -> dict[str, int] | None:
    """The same of an object store, where what ends like a file is one."""
    is_pattern = bool(_PATTERN & set(path))
    if not is_pattern and PurePosixPath(path).suffix.lower() in KINDS:
        return None
    fixed = PurePosixPath(path.partition("://")[2]).parts
    depth = next((i for i, part in enumerate(fixed) if _PATTERN & set(part)), len(fixed))
    folder = f"{path.partition('://')[0]}://{'/'.join(fixed[:depth])}"
    try:
        below = {f"{folder}/{name}": size for name, size in storage.sizes(folder).items()}
    except StorageError as error:
        raise DataError(str(error)) from error
    wanted = path if is_pattern else f"{folder}/*"
    return {file: size for file, size in below.items() if _fits(file, wanted)}


def _fits(file: str, pattern: str) -> bool:
    """Whether an object is one of a pattern's files, at its depth where there is no ** in it."""
    name = PurePosixPath(file)
    is_as_deep = "**" in pattern or file.count("/") == pattern.count("/")
    return fnmatch(file, pattern) and is_as_deep and name.suffix.lower() in KINDS and name.name[0] not in "._"


def _size(path: str) -> int:
    if is_hub(path):
        return 0
    if not storage.is_remote(path):
        return Path(path).stat().st_size if Path(path).is_file() else 0
    with opened(path) as file:
        return file.seek(0, io.SEEK_END)
