"""Checkpoints of a fine-tuning in one folder: written, then committed; found, checked, thinned out; no torch in here.

Invariant: a checkpoint is used only when its trainer_state.json, which is stored last, lists its files and each of them
is there with the size and sha256 that it says.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from semievol_ray import drift, storage
from semievol_ray.errors import ConfigError, StorageError
from semievol_ray.records import encode

STATE_FILE = "trainer_state.json"
_NAME = re.compile(r"checkpoint-(\d+)")
_MOST_DIFFERENCES = 5


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint: its folder, the steps it has behind it, and its trainer_state.json."""

    path: str
    step: int
    record: Mapping[str, Any]

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        """Name -> {bytes, sha256} of the files that hold its tensors."""
        return dict(self.record["files"])


def path_of(folder: str, step: int) -> str:
    """Where the checkpoint of a step lies."""
    return f"{folder}/checkpoint-{step}"


def described(data: bytes) -> dict[str, Any]:
    """Size and digest of a file, as a checkpoint lists them."""
    return {"bytes": len(data), "sha256": storage.digest(data)}


def commit(folder: str, step: int, record: Mapping[str, Any]) -> None:
    """Make the files that were stored for a step a checkpoint."""
    storage.write(f"{path_of(folder, step)}/{STATE_FILE}", encode({"global_step": step, **record}))


def committed_steps(folder: str) -> list[int]:
    """Steps with a committed checkpoint, the latest first; whether their files are whole is not looked at."""
    found = {_NAME.fullmatch(name.split("/")[-1]) for name in storage.find(folder, STATE_FILE)}
    return sorted((int(match[1]) for match in found if match), reverse=True)


def latest(folder: str, identity: Mapping[str, Any]) -> Checkpoint | None:
    """The last whole checkpoint, None where there is none. Its files' sizes are looked at, not yet their content.

    Raises ConfigError when it was made with another configuration, model or data.
    """
    for step in committed_steps(folder):
        found = _opened(folder, step)
        if found is not None:
            refuse_other(found, identity)
            return found
    return None


def refuse_other(checkpoint: Checkpoint, identity: Mapping[str, Any]) -> None:
    """Raises ConfigError, naming what differs, when a checkpoint belongs to another fine-tuning than `identity`."""
    if changed := drift.differences(checkpoint.record["identity"], identity):
        told = "; ".join(line.replace("in the run directory", "there") for line in changed[:_MOST_DIFFERENCES])
        more = f" and {len(changed) - _MOST_DIFFERENCES} more" if len(changed) > _MOST_DIFFERENCES else ""
        raise ConfigError(
            f"{checkpoint.path} is of another fine-tuning ({told}{more}), and going on from it would mix the two. Go "
            f"back to those values, or delete the folder {checkpoint.path.rpartition('/')[0]} to start anew."
        )


def read_file(checkpoint: Checkpoint, name: str) -> bytes:
    """A file of a checkpoint; StorageError when it is not what was stored."""
    data = storage.read(f"{checkpoint.path}/{name}")
    if described(data) != checkpoint.files[name]:
        raise StorageError(
            f"{checkpoint.path}/{name} is damaged: its content is not what was stored. Delete the folder "
            f"{checkpoint.path} and run the same command again; it goes on from the checkpoint before."
        )
    return data


def is_intact(checkpoint: Checkpoint) -> bool:
    """Whether every file of a checkpoint is, byte for byte, what was stored. StorageError when one cannot be read."""
    files = checkpoint.files.items()
    return all(described(storage.read(f"{checkpoint.path}/{name}")) == facts for name, facts in files)


def latest_intact(folder: str, identity: Mapping[str, Any]) -> Checkpoint | None:
    """As `latest`, with every byte looked at; damaged ones are removed. For one worker, which tells the others."""
    while (found := latest(folder, identity)) is not None:
        if is_intact(found):
            return found
        remove(folder, found.step)
    return None


def at(folder: str, step: int) -> Checkpoint | None:
    """The checkpoint of a step; None where there is none that is whole."""
    return _opened(folder, step) if step in committed_steps(folder) else None


def remove(folder: str, step: int) -> None:
    """Delete a checkpoint: first it ceases to be one, then its files go."""
    storage.remove(f"{path_of(folder, step)}/{STATE_FILE}")
    storage.remove_folder(path_of(folder, step))


def thin_out(folder: str, limit: int, best_step: int) -> None:
    """Keep the latest `limit` checkpoints and that of the best step, and delete the others."""
    for step in committed_steps(folder)[limit:]:
        if step != best_step:
            remove(folder, step)


def _opened(folder: str, step: int) -> Checkpoint | None:
    path = path_of(folder, step)
    state = storage.read(f"{path}/{STATE_FILE}")  # a store that does not answer must not pass for a missing checkpoint
    try:
        record = json.loads(state)
        files = {str(name): int(facts["bytes"]) for name, facts in record["files"].items()}
        is_ours = record["global_step"] == step and isinstance(record["identity"], dict)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    sizes = storage.sizes(path)
    if not is_ours or any(sizes.get(name) != size for name, size in files.items()):
        return None
    return Checkpoint(path, step, record)
