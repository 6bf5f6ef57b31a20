"""Input files -> records as they stand: csv, jsonl, parquet, and data sets of the Hugging Face hub.

Invariant: a record comes with the line it begins on (of csv and jsonl) or its number, counted from 1.
"""

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from semievol_ray.errors import DataError
from semievol_ray.stages.hub import hub_rows, is_hub

_CSV_FIELD_LIMIT = 2**31 - 1
Record = Mapping[str, Any]


def source_digest(path: str) -> str:
    """sha256 of a file's bytes; of an hf:// name the hash of the name, so that going on needs no network.

    A data set's rows are read once and then lie in the run; pin its revision where they have to be the same later.
    """
    if is_hub(path):
        return hashlib.sha256(path.encode()).hexdigest()
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise _missing(path) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def records(path: str) -> Iterator[tuple[int, Record]]:
    """(line, record) for every record of a file, in order. Raises DataError naming file, line and remedy."""
    if is_hub(path):
        yield from hub_rows(path)
        return
    file = Path(path)
    if not file.is_file():
        raise _missing(path)
    try:
        match file.suffix.lower():
            case ".csv":
                yield from _csv(file)
            case ".jsonl" | ".ndjson":
                yield from _jsonl(file)
            case ".parquet":
                yield from _parquet(file)
            case other:
                raise DataError(f"{path}: {other or 'no'} suffix; files of rows are .csv, .jsonl or .parquet.")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}). Convert it to UTF-8."
        ) from None
    except (csv.Error, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as {file.suffix[1:]}: {error}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def _missing(path: str) -> DataError:
    return DataError(f"{path}: there is no such file. Check the path under data: in the configuration.")


def _csv(file: Path) -> Iterator[tuple[int, Record]]:
    csv.field_size_limit(_CSV_FIELD_LIMIT)
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, strict=True)
        line = 2
        for record in reader:
            if None in record or any(v is None for v in record.values()):
                raise DataError(
                    f"{file}, line {line}: the row has more or fewer fields than the header. "
                    "Put quotes around text that holds a comma or a line break."
                )
            yield line, {k: v if v != "" else None for k, v in record.items()}
            line = reader.line_num + 1


def _jsonl(file: Path) -> Iterator[tuple[int, Record]]:
    with file.open(encoding="utf-8-sig") as stream:
        for line, text in enumerate(stream, start=1):
            if not text.strip():
                continue
            try:
                record = json.loads(text)
            except ValueError as error:
                raise DataError(f"{file}, line {line}: not valid JSON ({error}). Each line is one object.") from None
            if not isinstance(record, dict):
                raise DataError(f"{file}, line {line}: a JSON object was expected, not {type(record).__name__}.")
            yield line, record


def _parquet(file: Path) -> Iterator[tuple[int, Record]]:
    line = 1
    with pq.ParquetFile(file) as table:
        for batch in table.iter_batches(batch_size=1024):
            for record in batch.to_pylist():
                yield line, record
                line += 1
