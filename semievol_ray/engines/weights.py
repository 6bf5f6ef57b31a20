"""The files of a model folder: which loading reads, whether they may be used, the digest that identifies them.

Invariant: only what these functions list enters a digest, and pickled weights are refused, never opened.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from semievol_ray import storage
from semievol_ray.errors import ModelError, StorageError

READ_SUFFIXES = frozenset({".json", ".jinja", ".model", ".safetensors", ".txt"})
_PICKLE_SUFFIXES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})
# folders beside the weights that hold other forms of the model, or a trainer's snapshots of it
_OTHER_FOLDERS = re.compile(r"checkpoint-.*|global_step.*|onnx|openvino|original|runs|\..*")


def is_read(name: Path) -> bool:
    """Whether loading a model may read this file; its name is relative to the model's folder."""
    others = any(_OTHER_FOLDERS.fullmatch(folder) for folder in name.parts[:-1])
    return not others and name.suffix in READ_SUFFIXES and not name.name.startswith(".")


def model_files(folder: Path) -> list[str]:
    """Names, relative and sorted, of the files that loading a model may read."""
    found = []
    for here, below, files in os.walk(folder):
        below[:] = [name for name in below if not _OTHER_FOLDERS.fullmatch(name)]
        paths = [(Path(here) / name).relative_to(folder) for name in files]
        found += [path.as_posix() for path in paths if is_read(path)]
    return sorted(found)


def check_weights(folder: Path) -> None:
    """Raises ModelError unless there are safetensors weights, and every one that an index names."""
    files = model_files(folder)
    if not any(name.endswith(".safetensors") for name in files):
        pickled = sorted(entry.name for entry in folder.iterdir() if entry.suffix in _PICKLE_SUFFIXES)
        held = (
            f"only pickled weights ({', '.join(pickled)}), which can run code when loaded" if pickled else "no weights"
        )
        raise ModelError(
            f"{folder} holds {held}. Weights have to be *.safetensors: where you trust the model, load it with "
            "transformers and save_pretrained() it to a new folder, which writes them."
        )
    for index in folder.glob("*.safetensors.index.json"):
        try:
            missing = sorted(set(json.loads(index.read_bytes())["weight_map"].values()).difference(files))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{index} is no index of weights ({error}). Copy the model's folder again.") from error
        if missing:
            raise ModelError(f"{folder} lacks {', '.join(missing)}, which {index.name} names. Copy the folder again.")


def folder_digest(folder: Path, cache: Path, report: Callable[[str], None]) -> str:
    """SHA-256 over (name, size, SHA-256) of a model's files; those unchanged since the last call are not read."""
    memory = str(cache / "digests" / f"{storage.digest(str(folder).encode())}.json")
    known = _remembered(memory)
    stats = {name: (folder / name).stat() for name in model_files(folder)}
    keys = {name: f"{stat.st_size} {stat.st_mtime_ns}" for name, stat in stats.items()}
    changed = [name for name, key in keys.items() if known.get(name, {}).get("key") != key]
    with ThreadPoolExecutor() as pool:
        fresh = dict(zip(changed, pool.map(lambda name: file_sha256(folder / name), changed), strict=True))
    hashes = {name: fresh[name] if name in fresh else known[name]["sha256"] for name in keys}
    if changed:
        entries = {name: {"key": keys[name], "sha256": hashes[name]} for name in keys}
        try:
            storage.write(memory, json.dumps(entries).encode())
        except StorageError as error:
            report(f"the digest of {folder} is worked out anew every time: {error}")
    listing = [[name, stats[name].st_size, hashes[name]] for name in sorted(keys)]
    return storage.digest(json.dumps(listing).encode())


def _remembered(memory: str) -> dict[str, dict[str, str]]:
    try:
        found: dict[str, dict[str, str]] = json.loads(Path(memory).read_bytes())
    except (OSError, ValueError):
        return {}
    return found


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def translated(problem: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ModelError(f"{problem}: {error.strerror or error}. {remedy}") from error
