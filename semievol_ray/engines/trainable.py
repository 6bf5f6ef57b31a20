"""A base model made ready for fine-tuning: which of its parameters learn, and what wraps them.

Invariant: what was asked for is trained or refused; no module name and no method is passed over in silence.
"""

import re
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from semievol_ray.config import TrainConfig
from semievol_ray.errors import ConfigError, MissingExtraError

ALL_LINEAR = "all-linear"


def load_base(path: str, train: TrainConfig, dtype: str, *, packs_on_gpu: bool) -> Any:
    """The base model in `dtype`, four-bit where asked. Raises MissingExtraError without bitsandbytes."""
    four_bits = _four_bits(dtype) if train.load_in_4bit else None
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=getattr(torch, dtype),
        local_files_only=True,
        trust_remote_code=False,
        attn_implementation=_attention(dtype) if packs_on_gpu else None,
        quantization_config=four_bits,
    )
    model.config.use_cache = False
    return model


def trainable(model: Any, train: TrainConfig) -> Any:
    """The model with the parameters that learn: all of them, or those of a LoRA adapter around it.

    Raises ConfigError naming the modules there are when train.target_modules names others.
    """
    if train.method == "full":
        return model.train()
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    towers = towers_of(model)
    refuse_unknown(train.target_modules, [name for name, _ in _adaptable(model) if name not in towers])
    is_pattern = isinstance(train.target_modules, str) and train.target_modules != ALL_LINEAR
    if train.load_in_4bit:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)  # type: ignore[no-untyped-call]
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=train.lora_r,
        lora_alpha=train.lora_alpha,
        lora_dropout=train.lora_dropout,
        target_modules=train.target_modules if isinstance(train.target_modules, str) else list(train.target_modules),
        exclude_modules=None if is_pattern else towers or None,
        use_rslora=train.use_rslora,
        use_dora=train.use_dora,
    )
    return get_peft_model(model, lora)


def towers_of(model: Any) -> list[str]:
    """Layers of a model for text and more that no text passes through: of image and audio towers and their projectors.

    An adapter around one would stay what it was at the start. None where the model is one of text alone.
    """
    if model.config.get_text_config() is model.config:
        return []
    language, head = model.get_decoder(), model.get_output_embeddings()
    inside = {id(module) for module in (*language.modules(), head)}
    return [name for name, module in _adaptable(model) if id(module) not in inside]


def refuse_unknown(targets: str | Sequence[str], names: Sequence[str]) -> None:
    """Raises ConfigError when a target is no module of `names`, as PEFT matches them: a regular expression or ends."""
    if targets == ALL_LINEAR:
        return
    if isinstance(targets, str):
        missing = [] if any(re.fullmatch(targets, name) for name in names) else [targets]
    else:
        missing = [t for t in targets if not any(name == t or name.endswith(f".{t}") for name in names)]
    if missing:
        known = sorted({name.rsplit(".", 1)[-1] for name in names})
        raise ConfigError(
            f"train.target_modules: the model has no {', '.join(missing)}. Its layers are {', '.join(known)}. "
            f"Name some of them in a list, or use {ALL_LINEAR} for every linear one."
        )


def _adaptable(model: Any) -> list[tuple[str, Any]]:
    import torch
    from transformers.pytorch_utils import Conv1D

    kinds = (torch.nn.Linear, torch.nn.Embedding, Conv1D)
    return [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]


def _attention(dtype: str) -> str | None:
    """Variable-length attention for packed examples where the machine has it; the model's own choice otherwise."""
    return "flash_attention_2" if find_spec("flash_attn") and dtype in ("bfloat16", "float16") else None


def _four_bits(dtype: str) -> Any:
    if find_spec("bitsandbytes") is None:
        raise MissingExtraError(
            "train.load_in_4bit needs bitsandbytes, not installed here: pip install bitsandbytes, or leave it out."
        )
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
