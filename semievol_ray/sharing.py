"""Steps that several runs would make alike, made once: noted by fingerprint where they lie, and taken over by links.

Invariant: what a run takes over is one whole committed step of exactly its own name, settings, inputs, parts and
numerics, and it stands in the run at once or not at all.
"""

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semievol_ray import storage
from semievol_ray.errors import StorageError
from semievol_ray.records import encode, now, read_json
from semievol_ray.steps import STEP_FILE, Step

_SAME = ("name", "settings", "inputs", "parts", "numerics")
_OWN = frozenset({STEP_FILE, "attempts", "ray"})
"""What stays with the run that made the step: its step.json, its attempts, Ray Train's working folder."""


def fingerprint(record: Mapping[str, Any]) -> str:
    """SHA-256 of what a step's output depends on, from its step.json.

    Numerics are those resolved on the machine, so a CPU's and a GPU's step differ. The name belongs to it:
    data/unlabeled and data/gold have equal settings and inputs, and two collaborators configured alike are two samples.
    """
    return storage.digest(json.dumps({key: record[key] for key in _SAME}, sort_keys=True).encode())


def offer(share: str, step: Step) -> None:
    """Note in the folder `share` where a committed step lies, unless an equal one is noted there already."""
    record = step.record()
    noted = _noted(share, record)
    if not storage.exists(noted) and not step.removed():
        where = {"path": os.path.relpath(step.path, share), "digest": record["committed"]["digest"]}
        storage.create(noted, encode(where))


def take(share: str, step: Step, record: Mapping[str, Any]) -> str | None:
    """Take the equal committed step that `share` knows over as `step`; the folder it came from, None without one.

    record: the step.json that `step` would begin with. The new step has the original's digest, metrics and seconds, and
    `shared_from` relative to the run. A note whose step is gone, unfinished or another by now is removed.
    """
    if storage.exists(step.path) or not storage.exists(_noted(share, record)):
        return None
    origin = _origin(share, record)
    if origin is None:
        storage.remove(_noted(share, record))
        return None
    committed = origin.record()["committed"]
    if not _built_on(step, committed):
        return None
    root = step.path.removesuffix(f"/{step.name}")
    own = {"time": now(), "fence": step.fence, "shared_from": os.path.relpath(origin.path, root)}
    is_taken = _linked(share, origin, step, encode({**record, "committed": {**committed, **own}}))
    return origin.path if is_taken else None


def _noted(share: str, record: Mapping[str, Any]) -> str:
    return f"{share}/{fingerprint(record)}.json"


def _origin(share: str, record: Mapping[str, Any]) -> Step | None:
    """The noted step, if it still is what the note says."""
    noted = read_json(_noted(share, record))
    path = os.path.normpath(f"{share}/{noted['path']}")
    if not storage.exists(f"{path}/{STEP_FILE}"):
        return None
    there = read_json(f"{path}/{STEP_FILE}")
    origin = Step(path, there["name"], tuple(there["parts"]))
    is_same = fingerprint(there) == fingerprint(record) and not origin.missing_parts() and not origin.removed()
    return origin if is_same and (there.get("committed") or {}).get("digest") == noted["digest"] else None


def _built_on(step: Step, committed: Mapping[str, Any]) -> bool:
    """Whether the drafts that a step was made from are those this run has too: what was sampled is in no setting."""
    root = step.path.removesuffix(step.name)
    return all(
        storage.exists(f"{root}{name}/{STEP_FILE}")
        and (read_json(f"{root}{name}/{STEP_FILE}").get("committed") or {}).get("digest") == digest
        for name, digest in committed["metrics"].get("sources", {}).items()
    )


def _linked(share: str, origin: Step, step: Step, record: bytes) -> bool:
    """Fill a folder with links to the origin's files and rename it to the step's; False where that cannot be done."""
    begun = Path(share) / f".{uuid.uuid4().hex}.tmp"
    try:
        shutil.copytree(origin.path, begun, copy_function=_link_or_copy, ignore=_own_files(origin.path))
        storage.create(f"{begun}/{STEP_FILE}", record)
        storage.make_folder(str(Path(step.path).parent))
        try:
            begun.rename(step.path)
        except OSError:  # another disk, or somebody made the folder meanwhile: the run does the step itself
            return False
    except OSError as error:
        raise StorageError(
            f"cannot share {origin.path} with {step.path}: {error}. Free some space there or mend that folder, "
            "then run the same command again."
        ) from error
    finally:
        shutil.rmtree(begun, ignore_errors=True)
    return True


def _own_files(folder: str) -> Any:
    return lambda here, names: [name for name in names if name.endswith(".tmp") or (here == folder and name in _OWN)]


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
