"""A random Llama of two layers with a tokenizer of bytes, and fine-tunings of it that take a second.

Invariant: nothing is downloaded, and all is the same for every call.
"""

from pathlib import Path

import pyarrow as pa

from semievol_ray import schema, storage
from semievol_ray.config import SpeedConfig, TrainConfig
from semievol_ray.core.answers import Labels
from semievol_ray.engines.finetune import FinetuneSpec
from semievol_ray.tasks import Task

KINDS = ("plant", "animal", "food")
TASK = Task("kinds", "Say what kind of thing is described.", Labels(KINDS), max_tokens=12)
NUM_ROWS, BATCH, NUM_STEPS, SAVE_STEPS = 96, 4, 48, 6
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_model(folder: Path) -> Path:
    """The model's folder."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE(vocab=letters, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(token, special=True) for token in ("<|im_start|>", "<|im_end|>")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>")  # type: ignore[no-untyped-call]
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    tokenizer.save_pretrained(folder)
    return folder


def spec_in(folder: Path, model: Path, *, workers: int, zero_stage: int) -> FinetuneSpec:
    """A fine-tuning of NUM_STEPS steps, its examples written to `folder`."""
    storage.make_folder(str(folder))
    same = {"options": None, "group": None, "source": "gold", "weight": 1.0, "round": 0}
    rows = [
        {"id": f"row-{i}", "question": f"a {'very ' * (i % 4)}green thing {i}", "answer": KINDS[i % len(KINDS)], **same}
        for i in range(NUM_ROWS)
    ]
    path = f"{folder}/examples.parquet"
    storage.create_table(path, pa.Table.from_pylist(rows, schema=schema.EXAMPLES))
    speed = {"num_train_workers": workers, "zero_stage": zero_stage, "per_device_train_batch_size": 2}
    return FinetuneSpec(
        model_path=str(model),
        examples=(path,),
        task=TASK,
        train=TrainConfig(learning_rate=1e-2, train_batch_size=BATCH, lora_r=4, lora_alpha=8),
        speed=SpeedConfig.model_validate({**speed, "save_steps": SAVE_STEPS, "grace_seconds": 60.0}),
        dtype="float32",
        max_model_len=256,
        template_date="2024-07-26",
        seed=3,
        on_gpu=False,
        out=f"{folder}/adapter",
        curve=f"{folder}/curve.jsonl",
        checkpoints=f"{folder}/checkpoints",
    )
