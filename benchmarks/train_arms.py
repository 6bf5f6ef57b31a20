"""The arms of `benchmarks.train`: this project's fine-tuning, a bare loop, transformers' Trainer, as users write them.

Invariant: all learn from the same examples in the same order, from the same first values, with the same settings; each
does a step when it is given its turn, and nothing between.
"""

import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from semievol_ray.config import TrainConfig
from semievol_ray.engines.batches import in_order
from semievol_ray.engines.finetune import FinetuneSpec, Surroundings, finetune, read_examples, tokenised
from semievol_ray.engines.loss import IGNORED, TrainingExample
from semievol_ray.engines.rendering import load_tokenizer

PADDED, PACKED, BARE, TRAINER = "ours, padded", "ours, packed", "bare PyTorch + PEFT loop", "transformers.Trainer"


def arm(name: str, spec: FinetuneSpec, num_threads: int, port: int, log: str, connection: Connection) -> None:
    """One arm in a process of its own; its output goes to `log`. Sends its losses and its peak of memory at the end."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"OMP_NUM_THREADS": str(num_threads)} | ({} if spec.on_gpu else {"DS_ACCELERATOR": "cpu"})
    if name in (PADDED, PACKED):
        os.environ |= alone
    import torch

    torch.set_num_threads(num_threads)

    def turn() -> None:
        if spec.on_gpu:
            torch.cuda.synchronize()
        connection.send(time.process_time())
        if connection.recv() != "go":
            sys.exit(0)

    arms: dict[str, Callable[[FinetuneSpec, Callable[[], None]], list[float]]] = {BARE: _bare, TRAINER: _trainer}
    losses = arms.get(name, _ours)(spec, turn)
    gpu_bytes = torch.cuda.max_memory_allocated() if spec.on_gpu else 0
    connection.send({"losses": losses, "peak_mib": peak_mib(), "gpu_bytes": gpu_bytes})


def peak_mib() -> float:
    """The largest resident size of this process so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _ours(spec: FinetuneSpec, turn: Callable[[], None]) -> list[float]:
    """As a run's worker calls it."""
    losses = _listen(turn)
    finetune(spec, Surroundings(None if spec.on_gpu else int(os.environ["OMP_NUM_THREADS"])))
    return losses


def _listen(turn: Callable[[], None]) -> list[float]:
    """Every Trainer of this process from now on waits for its turn before a step; the losses come into the list."""
    from transformers import TrainerCallback, trainer

    losses: list[float] = []

    class Turns(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            turn()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
            if logs and "loss" in logs:
                losses.append(logs["loss"])

    trainer.DEFAULT_CALLBACKS.append(Turns)  # type: ignore[arg-type]
    return losses


def _trainer(spec: FinetuneSpec, turn: Callable[[], None]) -> list[float]:
    """Labels masked up to the answer, batches padded on the right, the model's own loss."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    losses, train = _listen(turn), spec.train
    model, tokenizer, examples = _parts(spec)
    arguments = TrainingArguments(
        output_dir=f"{spec.out}/trainer",
        per_device_train_batch_size=train.train_batch_size,
        learning_rate=train.learning_rate,
        max_steps=len(examples) // train.train_batch_size,
        lr_scheduler_type=train.lr_scheduler_type,
        warmup_steps=train.warmup_ratio,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        train_sampling_strategy="sequential",
        bf16=spec.dtype == "bfloat16",
        use_cpu=not spec.on_gpu,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    rows = [{"input_ids": list(e.ids), "labels": _labels(e)} for e in examples]
    Trainer(model=model, args=arguments, train_dataset=rows, data_collator=DataCollatorForSeq2Seq(tokenizer)).train()
    return losses


def _bare(spec: FinetuneSpec, turn: Callable[[], None]) -> list[float]:
    """The loop of PyTorch's tutorials around PEFT's model: forward, backward, clip, step."""
    import torch
    from transformers import get_cosine_schedule_with_warmup

    train, losses = spec.train, list[float]()
    model, tokenizer, examples = _parts(spec)
    device = torch.device("cuda" if spec.on_gpu else "cpu")
    model.to(device).train()
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=train.learning_rate, weight_decay=train.weight_decay)
    steps = [examples[i : i + train.train_batch_size] for i in range(0, len(examples), train.train_batch_size)]
    scheduler = get_cosine_schedule_with_warmup(optimizer, math.ceil(len(steps) * train.warmup_ratio), len(steps))
    for step in steps:
        turn()
        batch = {name: tensor.to(device) for name, tensor in _padded(step, tokenizer.pad_token_id).items()}
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, train.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def _parts(spec: FinetuneSpec) -> tuple[Any, Any, Sequence[TrainingExample]]:
    """The base with a new adapter (or bare, for method full), the tokenizer, and the examples in order."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    tokenizer: Any = load_tokenizer(spec.model_path)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    examples = in_order(tokenised(read_examples(spec.examples), spec, tokenizer), spec.train, spec.seed)
    model = AutoModelForCausalLM.from_pretrained(spec.model_path, dtype=getattr(torch, spec.dtype))
    model.config.use_cache = False
    set_seed(spec.seed)
    return (
        model if spec.train.method == "full" else get_peft_model(model, _lora(spec.train, LoraConfig)),
        tokenizer,
        examples,
    )


def _lora(train: TrainConfig, config: Any) -> Any:
    return config(
        task_type="CAUSAL_LM", r=train.lora_r, lora_alpha=train.lora_alpha, lora_dropout=train.lora_dropout,
        target_modules="all-linear",
    )  # fmt: skip


def _labels(example: TrainingExample) -> list[int]:
    start = len(example.ids) - example.num_answer
    return [IGNORED] * start + list(example.ids[start:])


def _padded(examples: Sequence[TrainingExample], pad: int) -> dict[str, Any]:
    import torch

    width = max(len(e.ids) for e in examples)
    gaps = [width - len(e.ids) for e in examples]
    return {
        "input_ids": torch.tensor([list(e.ids) + [pad] * gap for e, gap in zip(examples, gaps, strict=True)]),
        "attention_mask": torch.tensor([[1] * len(e.ids) + [0] * g for e, g in zip(examples, gaps, strict=True)]),
        "labels": torch.tensor([_labels(e) + [IGNORED] * gap for e, gap in zip(examples, gaps, strict=True)]),
    }
