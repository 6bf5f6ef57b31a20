"""Input files -> records as they stand: csv, jsonl, parquet, and data sets of the Hugging Face hub.

Invariant: a record comes with the line it begins on (of csv and jsonl) or its number, counted from 1.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from semievol_ray import storage
from semievol_ray.errors import DataError, StorageError
from semievol_ray.stages.hub import hub_rows, is_hub

CSV_FIELD_LIMIT = 2**31 - 1
Record = Mapping[str, Any]


def source_digest(path: str) -> str:
    """sha256 of a file's bytes; of an hf:// name the hash of the name, so that going on needs no network.

    A data set's rows are read once and then lie in the run; pin its revision where they have to be the same later. An
    object is known by its size and the checksum (ETag) that its store keeps: it is not read, and a file that moves
    from a disk to a store counts as another one.
    """
    if is_hub(path):
        return hashlib.sha256(path.encode()).hexdigest()
    if storage.is_remote(path) and (identity := _identity(path)):
        return hashlib.sha256(identity.encode()).hexdigest()
    with opened(path) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def records(path: str) -> Iterator[tuple[int, Record]]:
    """(line, record) for every record of a file, in order. Raises DataError naming file, line and remedy."""
    if is_hub(path):
        yield from hub_rows(path)
        return
    suffix = PurePosixPath(path).suffix.lower()
    try:
        with opened(path) as file:
            match suffix:
                case ".csv":
                    yield from _csv(path, file)
                case ".jsonl" | ".ndjson":
                    yield from _jsonl(path, file)
                case ".parquet":
                    yield from _parquet(file)
                case other:
                    raise DataError(f"{path}: {other or 'no'} suffix; files of rows are .csv, .jsonl or .parquet.")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}). Convert it to UTF-8."
        ) from None
    except (csv.Error, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as {suffix[1:]}: {error}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def _identity(url: str) -> str | None:
    try:
        return storage.identity(url)
    except StorageError as error:
        raise DataError(str(error)) from error


def opened(path: str) -> io.BufferedReader:
    """A file open for reading and seeking, here or in an object store. Raises DataError where it cannot be."""
    if not storage.is_remote(path) and not Path(path).is_file():
        raise DataError(f"{path}: there is no such file. Check the path under data: in the configuration.")
    try:
        return storage.open_read(path)
    except StorageError as error:
        raise DataError(str(error)) from error


def _csv(path: str, file: io.BufferedReader) -> Iterator[tuple[int, Record]]:
    csv.field_size_limit(CSV_FIELD_LIMIT)
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, strict=True)
        line = 2
        for record in reader:
            yield line, csv_record(path, line, record)
            line = reader.line_num + 1


def csv_record(path: str, line: int, record: Mapping[str, str | None]) -> Record:
    """A row of a csv file with None for empty fields. Raises DataError where it does not fit the header."""
    if None in record or any(v is None for v in record.values()):
        raise DataError(
            f"{path}, line {line}: the row has more or fewer fields than the header. "
            "Put quotes around text that holds a comma or a line break."
        )
    return {k: v if v != "" else None for k, v in record.items()}


def _jsonl(path: str, file: io.BufferedReader) -> Iterator[tuple[int, Record]]:
    with io.TextIOWrapper(file, encoding="utf-8-sig") as stream:
        for line, text in enumerate(stream, start=1):
            if not text.strip():
                continue
            try:
                record = json.loads(text)
            except ValueError as error:
                raise DataError(f"{path}, line {line}: not valid JSON ({error}). Each line is one object.") from None
            if not isinstance(record, dict):
                raise DataError(f"{path}, line {line}: a JSON object was expected, not {type(record).__name__}.")
            yield line, record


def _parquet(file: io.BufferedReader) -> Iterator[tuple[int, Record]]:
    line = 1
    with pq.ParquetFile(file) as table:
        for batch in table.iter_batches(batch_size=1024):
            for record in batch.to_pylist():
                yield line, record
                line += 1
