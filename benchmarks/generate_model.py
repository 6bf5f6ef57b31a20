"""Models and adapters for `benchmarks.generate`: a real one by name, or Llama-3.1-8B's shape with random weights.

Invariant: weights that are made here are noise of a fixed seed; they serve speed and say nothing of quality.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semievol_ray.engines.models import resolve_model

TOKENIZER_OF = "smollm2-135m-instruct"
"""Whose tokenizer a model without weights borrows: it is packaged, and any that fits the vocabulary does."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
LLAMA_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "vocab_size": 128256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
    "tie_word_embeddings": False, "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
    "bos_token_id": 1, "eos_token_id": 2, "dtype": "bfloat16",
}  # fmt: skip
TINY = {
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "dtype": "float32",
}  # fmt: skip
DUMMIES = {"dummy:8B": LLAMA_8B, "dummy:tiny": {**LLAMA_8B, **TINY}}
"""The shape of Llama-3.1-8B; and one with its vocabulary that any machine runs, to try the command with."""
RANK, ALPHA, SMALL = 16, 32, 0.002


@dataclass(frozen=True)
class Shape:
    """What a decoder's work is made of; sizes as in its config.json."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool

    def linears(self) -> dict[str, tuple[int, int]]:
        """Each linear map of a layer: (inputs, outputs)."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = {"q_proj": (self.hidden, queries), "k_proj": (self.hidden, keys), "v_proj": (self.hidden, keys)}
        attention["o_proj"] = (queries, self.hidden)
        up = (self.hidden, self.intermediate)
        return {**attention, "gate_proj": up, "up_proj": up, "down_proj": up[::-1]}

    def multiplied(self) -> int:
        """Parameters that every token is multiplied with: all but the embedding that it is looked up in."""
        return self.layers * sum(a * b for a, b in self.linears().values()) + self.hidden * self.vocabulary

    def kv_values(self) -> int:
        """Numbers that one token leaves in the KV cache."""
        return 2 * self.layers * self.kv_heads * self.head_dim


def shape_of(folder: str) -> Shape:
    """The shape in a model folder's config.json."""
    c = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
    heads = c["num_attention_heads"]
    return Shape(
        c["hidden_size"], c["intermediate_size"], c["num_hidden_layers"], heads, c.get("num_key_value_heads", heads),
        c.get("head_dim") or c["hidden_size"] // heads, c["vocab_size"], bool(c.get("tie_word_embeddings")),
    )  # fmt: skip


def model_folder(name: str, folder: Path) -> str:
    """The folder of a model; for a dummy one that is written: a configuration, a tokenizer and no weights to read."""
    if name not in DUMMIES:
        return resolve_model(name).path
    made = folder / name.replace(":", "-")
    made.mkdir(parents=True, exist_ok=True)
    donor = Path(resolve_model(TOKENIZER_OF).path)
    for file in donor.iterdir():
        if file.name in TOKENIZER_FILES:
            shutil.copy(file, made)
    (made / "config.json").write_text(json.dumps(DUMMIES[name]), encoding="utf-8")
    _save({"placeholder": np.zeros(1, np.float32)}, made / "model.safetensors")
    return str(made)


def write_adapter(model: str, folder: Path) -> str:
    """A LoRA adapter of rank RANK on every linear map, whose effect is small noise; PEFT and vLLM load it."""
    folder.mkdir(parents=True, exist_ok=True)
    shape, rng, tensors = shape_of(model), np.random.default_rng(0), {}
    for layer in range(shape.layers):
        for name, (inputs, outputs) in shape.linears().items():
            block = "self_attn" if name in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
            stem = f"base_model.model.model.layers.{layer}.{block}.{name}"
            a = rng.standard_normal((RANK, inputs), np.float32) / np.sqrt(np.float32(inputs))
            tensors[f"{stem}.lora_A.weight"] = a
            tensors[f"{stem}.lora_B.weight"] = SMALL * rng.standard_normal((outputs, RANK), np.float32)
    _save(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": model, "r": RANK,
        "lora_alpha": ALPHA, "lora_dropout": 0.0, "bias": "none", "target_modules": list(shape.linears()),
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


def _save(tensors: dict[str, Any], path: Path) -> None:
    from safetensors.numpy import save_file

    save_file(tensors, str(path), {"format": "pt"})
