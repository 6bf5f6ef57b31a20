"""What a model is called between machines, and its folder on the machine that loads it.

A folder cache of one machine means nothing on another: a hub's or a packaged model travels as its name with its commit
and digest, and is fetched once on each machine.
Invariant: no machine loads other weights under a reference than those that its digest was taken of.
"""

import contextlib
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from semievol_ray import folders, storage
from semievol_ray.engines.hub import held_folder, hub_folder
from semievol_ray.engines.packaged import PACKAGED, packaged_folder
from semievol_ray.engines.weights import folder_digest, is_read, model_files
from semievol_ray.errors import ModelError, SemievolError, StorageError

_REFERENCE = re.compile(r"(hub|packaged):([^@#]+)(?:@([^#]+))?#([0-9a-f]{64})")


def tell(message: str) -> None:
    """Writes one line to stderr."""
    print(message, file=sys.stderr, flush=True)


def hub_reference(name: str, commit: str, digest: str) -> str:
    """What a model of the hub is called on every machine."""
    return f"hub:{name}@{commit}#{digest}"


def packaged_reference(name: str, digest: str) -> str:
    """What a packaged model is called on every machine."""
    return f"packaged:{name}#{digest}"


def is_folder(reference: str) -> bool:
    """Whether a reference is a plain folder, which every machine has to hold already."""
    return _REFERENCE.fullmatch(reference) is None and not storage.is_remote(reference)


def file_sizes(folder: str) -> dict[str, int]:
    """The files that loading a model in this folder may read, with their bytes; none where there is no such folder."""
    return {name: Path(folder, name).stat().st_size for name in model_files(Path(folder))}


def fault(reference: str, sizes: Mapping[str, int]) -> str | None:
    """Why this machine cannot load a model; None where it can: one that is no plain folder is fetched for that.

    sizes: the files of a plain folder where the command was given.
    """
    if not is_folder(reference):
        try:
            local_weights(reference)
        except SemievolError as error:
            return str(error)
        return None
    here = file_sizes(reference)
    wrong = sorted(name for name in {*sizes, *here} if sizes.get(name) != here.get(name))
    if not wrong:
        return None
    what = f"has not the same {wrong[0]}" if here else "is not there, or cannot be read"
    return (
        f"the model's folder {reference} {what}. Put it under that path on every node, or name the model as one that "
        "each node fetches: an address (s3://, gs://), org/name of the hub, or a packaged model."
    )


def local_weights(reference: str) -> str:
    """The folder of a model on this machine: itself when it is one, else fetched, once a machine.

    Raises ModelError where the weights cannot be had here, or are not those that the reference was made of.
    """
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        return folders.local_copy(reference, lambda name: is_read(Path(name)))
    kind, name, commit, digest = found.groups()
    cache, here = Path(folders.cache_folder()), platform.node()
    with _one_at_a_time(f"{cache}/locks/{storage.digest(reference.encode())}.lock"):
        try:
            path, now = _hub(name, commit, digest, cache) if kind == "hub" else _packaged(name, cache)
        except ModelError as error:
            raise ModelError(f"on {here}: {error}") from error
    if now != digest:
        raise ModelError(
            f"{name} has other weights on {here} than where the command was given: digest {now[:12]} in {path}, not "
            f"{digest[:12]}. Remove that folder, and see that both machines have the same packages installed."
        )
    return str(path)


def _hub(name: str, commit: str, digest: str, cache: Path) -> tuple[Path, str]:
    """A commit's snapshot and its digest; the network is asked for what is not here whole."""
    held = held_folder(name, commit)
    if held is not None and (found := folder_digest(held, cache, tell)) == digest:
        return held, found
    tell(f"{platform.node()}: fetching {name}, commit {commit[:12]}, from the hub (once on this machine)")
    path = hub_folder(name, commit)
    return path, folder_digest(path, cache, tell)


def _packaged(name: str, cache: Path) -> tuple[Path, str]:
    return packaged_folder(PACKAGED[name], cache, lambda message: tell(f"{platform.node()}: {message}"))


@contextlib.contextmanager
def _one_at_a_time(path: str) -> Iterator[None]:
    """Held by one process of this machine; by any number where the cache cannot be written."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(StorageError):
            held.enter_context(folders.locked(path))
        yield
