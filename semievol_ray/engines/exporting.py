"""A fine-tuned model as other tools open it: an adapter, or whole weights, with tokenizer and generation settings.

Invariant: what a folder gets is checked by `verify_adapter`, and its tokenizer is the base's, byte for byte.
"""

import json
import re
import shutil
from pathlib import Path

from semievol_ray import folders
from semievol_ray.engines.adapters import CONFIG, WEIGHTS, is_whole_model, merge, verify_adapter
from semievol_ray.engines.models import is_hub_name
from semievol_ray.engines.references import local_weights
from semievol_ray.engines.weights import model_files

_BESIDE_WEIGHTS = re.compile(
    r"(tokenizer|special_tokens|added_tokens|vocab|merges|chat_template|generation_config|spiece|sentencepiece|LICENSE|NOTICE)"
    r"[^/]*",
)
DTYPES = ("float32", "bfloat16", "float16")


def write_adapter(adapter: str, base: str, base_name: str, out: str) -> None:
    """The adapter's two files into the folder `out`, its base named as others can find it; the base's tokenizer.

    Raises AdapterError when the adapter cannot be used.
    """
    here = folders.local_copy(adapter)
    config = json.loads(Path(f"{here}/{CONFIG}").read_bytes())
    config["base_model_name_or_path"] = base_name if is_hub_name(base_name) else base
    Path(out, CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    shutil.copyfile(f"{here}/{WEIGHTS}", f"{out}/{WEIGHTS}")
    _copy_beside_weights(base, out)
    verify_adapter(out)


def write_merged(adapter: str, base: str, out: str) -> str:
    """Base + adapter as one model in the folder `out`; returns the dtype of its weights, which is the base's own.

    Raises AdapterError when what was written cannot be used.
    """
    here, dtype = local_weights(base), stored_dtype(local_weights(base))
    merge(here, folders.local_copy(adapter), dtype, out)
    _copy_beside_weights(here, out)
    verify_adapter(out)
    return dtype


def write_whole(model: str, out: str) -> None:
    """A fine-tuning of all weights into the folder `out`, file by file. Raises AdapterError when it cannot be used."""
    assert is_whole_model(model), model
    here = Path(local_weights(model))
    for name in model_files(here):
        Path(out, name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(here / name, Path(out, name))
    verify_adapter(out)


def stored_dtype(model: str) -> str:
    """The dtype that a model folder's configuration names; float32, which loses nothing, where it names none."""
    config = json.loads(Path(model, "config.json").read_bytes())
    named = [part.get(key) for part in (config, config.get("text_config") or {}) for key in ("dtype", "torch_dtype")]
    return next((dtype for dtype in named if dtype in DTYPES), "float32")


def _copy_beside_weights(base: str, out: str) -> None:
    for path in Path(local_weights(base)).iterdir():
        if path.is_file() and _BESIDE_WEIGHTS.fullmatch(path.name):
            shutil.copyfile(path, f"{out}/{path.name}")
