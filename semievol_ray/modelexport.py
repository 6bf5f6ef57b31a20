"""`semievol export RUN --model`: the model of a round as a folder of its own, with tokenizer and model card.

Invariant: the folder appears whole or not at all, and never in place of another.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from semievol_ray import folders, storage
from semievol_ray.config import RunConfig
from semievol_ray.configfile import parse
from semievol_ray.engines import adapters, exporting
from semievol_ray.engines.models import ResolvedModel, resolve_model
from semievol_ray.errors import DriftError, StorageError, UserError
from semievol_ray.modelcard import model_card
from semievol_ray.runs import read_manifest, read_steps

CARD = "README.md"
OPENED_FIRST = (adapters.CONFIG, adapters.MODEL_CONFIG)


@dataclass(frozen=True)
class ExportedModel:
    """The folder that was written, the round whose model it is, and what it holds."""

    path: str
    round: int
    kind: Literal["adapter", "merged", "full"]


def export_model(root: str, out: str, *, merged: bool = False, number: int | None = None) -> ExportedModel:
    """Write the model of a round, by default the one the run hands over or else its last, to the new folder `out`.

    An adapter stays one unless `merged`; a fine-tuning of all weights is whole either way. Raises UserError when the
    folder is no run or exists already or the round has no model, DriftError when the base is no longer the same.
    """
    config, trained = parse(read_manifest(root)["config"], f"{root}/manifest.json"), _trained(root)
    round_number = _chosen(root, trained, number)
    record, adapter = trained[round_number], f"{root}/rounds/{round_number:04d}/train/adapter"
    if config.numerics.engine == "scripted":
        raise UserError(f"{root} was made by the scripted engine, which trains nothing: there is no model to export.")
    kind: Literal["adapter", "merged", "full"] = "merged" if merged else "adapter"
    kind = "full" if adapters.is_whole_model(adapter) else kind
    with _appearing(out) as folder:
        dtype = _write(kind, adapter, config, record, folder)
        card = model_card(root, config, round_number, kind, record, dtype)
        Path(folder, CARD).write_text(card, encoding="utf-8")
    return ExportedModel(out, round_number, kind)


def _write(kind: str, adapter: str, config: RunConfig, record: dict[str, Any], folder: str) -> str:
    """The weights and what belongs to them; returns their dtype."""
    if kind == "full":
        exporting.write_whole(adapter, folder)
        return exporting.stored_dtype(folder)
    base = _base(config, record)
    if kind == "merged":
        return exporting.write_merged(adapter, base.path, folder)
    exporting.write_adapter(adapter, base.path, base.name, folder)
    return "float32"


def _base(config: RunConfig, record: dict[str, Any]) -> ResolvedModel:
    """The base model, the same as the fine-tuning's."""
    base, then = resolve_model(config.model), record["inputs"]["model"]
    if base.digest != then:
        raise DriftError(
            f"model {config.model!r} is not the one that was fine-tuned: its weights have digest {base.digest[:12]} "
            f"now and had {then[:12]} then. Put the old weights back where they were."
        )
    return base


def _trained(root: str) -> dict[int, dict[str, Any]]:
    """Round -> step.json of its committed fine-tuning."""
    steps = {name.split("/")[1]: record for name, record in read_steps(root) if _is_fine_tuning(name)}
    return {int(number): record for number, record in sorted(steps.items()) if record.get("committed")}


def _is_fine_tuning(name: str) -> bool:
    return name.startswith("rounds/") and name.endswith("/train") and name.count("/") == 2


def _chosen(root: str, trained: dict[int, dict[str, Any]], number: int | None) -> int:
    if not trained:
        raise UserError(f"{root} has no model yet: none of its rounds is fine-tuned. `semievol run` goes on with it.")
    wanted = read_manifest(root).get("final", {}).get("round", max(trained)) if number is None else number
    if wanted not in trained:
        raise UserError(f"{root} has no model of round {wanted}; rounds with one: {', '.join(map(str, trained))}.")
    return int(wanted)


@contextmanager
def _appearing(out: str) -> Iterator[str]:
    """A folder to write into, which becomes `out` when the block ends well; in a store what is opened first comes last.

    Raises UserError where `out` exists, before anything is written.
    """
    storage.check_address(out)
    if storage.sizes(out) if storage.is_remote(out) else Path(out).exists():
        raise UserError(f"{out} exists already, and an export overwrites nothing. Name a new folder.")
    if storage.is_remote(out):
        with tempfile.TemporaryDirectory(prefix="semievol-export-") as folder:
            yield folder
            _put(folder, out)
        return
    target = Path(storage.absolute(out))
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        unfinished.mkdir(parents=True)
        yield str(unfinished)
        unfinished.rename(target)
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error.strerror or error}. Name another folder.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _put(folder: str, out: str) -> None:
    held = sorted(storage.sizes(folder), key=lambda name: name in OPENED_FIRST)
    for name in held:
        folders.put_file(f"{folder}/{name}", f"{out.rstrip('/')}/{name}")
