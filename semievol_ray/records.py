"""The JSON files of a run directory: written, read, and a damaged one named.

Invariant: a file that is no JSON object leaves here as a StorageError that names it and what to do.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from semievol_ray import storage
from semievol_ray.errors import StorageError

Fields = Mapping[str, type | tuple[type, ...]]
"""Names that an object has to hold, each with the types that JSON gives for it."""


def now() -> str:
    """The time in UTC, in a form that sorts."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def encode(value: object) -> bytes:
    """A value as JSON text."""
    return json.dumps(value, indent=1).encode()


def read_json(path: str) -> dict[str, Any]:
    """The object in a JSON file; StorageError when it holds none."""
    try:
        found = json.loads(storage.read(path))
    except ValueError as error:
        raise _damaged(path, f"it is not valid JSON ({error})") from error
    if not isinstance(found, dict):
        raise _damaged(path, "it does not hold a JSON object")
    return found


def read_record(path: str, fields: Fields) -> dict[str, Any]:
    """The object in a JSON file; StorageError when one of these fields is missing or of another type."""
    found = read_json(path)
    require_fields(path, found, fields)
    return found


def require_fields(path: str, found: Mapping[str, Any], fields: Fields, where: str = "") -> None:
    """StorageError unless an object read from `path` (there under the dotted name `where`) has these fields."""
    for name, kind in fields.items():
        if name not in found:
            raise _damaged(path, f"`{where}{name}` is missing in it")
        if not isinstance(found[name], kind):
            raise _damaged(path, f"`{where}{name}` is {json.dumps(found[name])[:40]} in it")


def _damaged(path: str, what: str) -> StorageError:
    folder, _, name = path.rpartition("/")
    way = f"delete the folder {folder}" if name == "step.json" else "delete this file"
    return StorageError(
        f"{path} is damaged or was edited: {what}. Put the original back, or {way} and run the same command again."
    )


def json_lines(path: str) -> list[dict[str, Any]]:
    """The objects in a file of JSON lines, torn lines left out; none when the file is missing."""
    return parsed(storage.lines(path))


def parsed(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The objects in lines of JSON, torn lines left out."""
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:  # torn by a full disk or a power cut; the next writer began a new line
            continue
    return found
