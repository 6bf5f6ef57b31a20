"""What `benchmarks.train` learns from: rows as long as those of FPB, and models of a wanted shape with random weights.

Invariant: FPB itself is not here, for its licence forbids it; only how long its sentences are.
"""

import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from semievol_ray import schema, storage
from semievol_ray.engines.models import resolve_model
from semievol_ray.engines.weights import model_files
from semievol_ray.tasks import Task, resolve

PACKAGED = "smollm2-135m-instruct"
DUMMY = "dummy:"
WORDS_DECILES = (2, 11, 14, 16, 18, 21, 23, 27, 31, 37, 81)
"""Words of a sentence of FPB, at 0, 10 .. 100% of its 2,264 rows."""
WORDS = (
    "the", "a", "of", "company", "profit", "rose", "fell", "to", "in", "million", "from", "quarter", "sales", "net",
    "operating", "share", "year", "and", "said", "its", "order", "market", "result", "per", "cent", "contract", "value",
)  # fmt: skip
TASK: Task = resolve("fpb")
ANSWERS = ("negative", "neutral", "positive")
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 49152},
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128256},
    "8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128256},
}  # fmt: skip
"""Llama's shapes by the names that people call them by."""


def write_examples(path: str, num: int, seed: int = 0) -> None:
    """An EXAMPLES table of `num` rows whose questions have as many words as FPB's."""
    drawn = random.Random(seed)
    rows = [
        {
            "id": f"row-{i}", "question": _sentence(drawn), "options": list(ANSWERS), "answer": "ABC"[i % 3],
            "group": None, "source": "gold", "weight": 1.0, "round": 0, "confidence": None,
        }
        for i in range(num)
    ]  # fmt: skip
    storage.create_table(path, pa.Table.from_pylist(rows, schema=schema.EXAMPLES))


def model_folder(name: str, scratch: Path) -> str:
    """The folder of a model's weights; `dummy:8B` is made in `scratch`: random, with the packaged tokenizer."""
    if not name.startswith(DUMMY):
        return resolve_model(name).path
    folder = scratch / name.removeprefix(DUMMY)
    if not folder.exists():
        _write_dummy(SHAPES[folder.name], folder)
    return str(folder)


def _write_dummy(shape: Mapping[str, Any], folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**shape, max_position_embeddings=4096, tie_word_embeddings=False)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model: Any = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
            model.save_pretrained(folder)
    finally:
        torch.set_default_dtype(torch.float32)
    tokenizer = Path(resolve_model(PACKAGED).path)
    for name in model_files(tokenizer):
        if "token" in name or "template" in name:
            shutil.copyfile(tokenizer / name, folder / name)


def _sentence(drawn: random.Random) -> str:
    at = drawn.random() * (len(WORDS_DECILES) - 1)
    low, high = WORDS_DECILES[int(at)], WORDS_DECILES[int(at) + 1]
    return " ".join(drawn.choices(WORDS, k=round(low + (high - low) * (at % 1))))


def model_name(folder: str) -> dict[str, Any]:
    """What of a model's configuration belongs into a result: architecture and sizes."""
    config = json.loads(Path(folder, "config.json").read_bytes())
    keys = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")
    return {key: config.get(key) for key in keys}
