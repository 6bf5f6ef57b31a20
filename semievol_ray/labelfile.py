"""A file of labels, written part by part: parquet, JSON lines or csv, as its name ends.

Invariant: the file appears whole or not at all; memory does not grow with the rows.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from semievol_ray import folders, schema, storage
from semievol_ray.errors import StorageError, UserError

SUFFIXES = (".parquet", ".jsonl", ".csv")
Add = Callable[[pa.Table], None]


def check_out(path: str, *, force: bool) -> None:
    """Raises UserError for a name that says no format, and for a file that is there already without `force`."""
    if _suffix(path) not in SUFFIXES:
        raise UserError(f"{path}: the name says no format. End it in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}.")
    if storage.exists(path) and not force:
        raise UserError(f"{path} exists already. Name another file with -o, or add --force to replace it.")


@contextmanager
def written(path: str) -> Iterator[Add]:
    """A function that adds LABELS rows to the file, which appears when the block ends well. Raises StorageError."""
    with tempfile.TemporaryDirectory(prefix="semievol-") as scratch:
        unfinished = Path(scratch, "labels") if storage.is_remote(path) else Path(f"{path}.{os.getpid()}.partial")
        try:
            storage.make_folder(str(unfinished.parent))
            with unfinished.open("wb") as file, _adding(file, _suffix(path)) as add:
                yield add
            if storage.is_remote(path):
                folders.put_file(str(unfinished), path)
            else:
                unfinished.replace(path)
        except OSError as error:
            raise StorageError(
                f"cannot write {path}: {error.strerror or error}. Name another file with -o; what is answered stays."
            ) from error
        finally:
            unfinished.unlink(missing_ok=True)


@contextmanager
def _adding(file: IO[bytes], suffix: str) -> Iterator[Add]:
    match suffix:
        case ".parquet":
            with pq.ParquetWriter(file, schema.LABELS, compression="zstd") as parquet:
                yield parquet.write_table
        case ".csv":
            with pcsv.CSVWriter(file, schema.LABELS) as lines:
                yield lines.write_table
        case _:
            yield lambda table: file.writelines(
                json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in table.to_pylist()
            )


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()
