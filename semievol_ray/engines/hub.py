"""Models of the Hugging Face hub -> their snapshot folders on this machine, of one commit where one is named.

Invariant: only files that loading reads are fetched, and none of them is code.
"""

from collections.abc import Callable
from pathlib import Path

from semievol_ray.engines.packaged import PACKAGED
from semievol_ray.engines.weights import READ_SUFFIXES
from semievol_ray.errors import MissingExtraError, ModelError

_PATTERNS = [f"*{suffix}" for suffix in sorted(READ_SUFFIXES)]


def hub_folder(name: str, commit: str | None = None) -> Path:
    """The snapshot of a commit (None: the newest), fetched where it is not here whole; its name is the commit's.

    Without network it is what is here. Raises ModelError where nothing is.
    """
    try:
        return _snapshot(name, commit, only_here=False)
    except MissingExtraError:
        raise
    except Exception as error:  # the hub raises from three trees: OSError, ValueError and its HTTP client's own
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise ModelError(
            f"{name} is no local folder and cannot be had from the hub ({type(error).__name__}: {reason}). "
            "Check the spelling and the network; for a gated or private model accept its terms and set HF_TOKEN; "
            "without network fill HF_HOME elsewhere and copy it here, name a folder with the weights, or take a "
            f"packaged model ({', '.join(PACKAGED)})."
        ) from error


def held_folder(name: str, commit: str) -> Path | None:
    """What this machine holds of a commit, whole or in part; no network is asked."""
    try:
        return _snapshot(name, commit, only_here=True)
    except FileNotFoundError:  # the hub's LocalEntryNotFoundError is one
        return None


def _snapshot(name: str, commit: str | None, *, only_here: bool) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtraError(f"{name} comes from the hub: pip install 'semievol-ray[cpu]' (or [cuda])") from error
    download: Callable[..., str] = snapshot_download
    others = ["onnx/*", "openvino/*"]
    return Path(
        download(name, revision=commit, allow_patterns=_PATTERNS, ignore_patterns=others, local_files_only=only_here)
    )
