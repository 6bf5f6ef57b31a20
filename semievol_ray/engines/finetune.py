"""transformers.Trainer + PEFT + DeepSpeed on the examples of a run; no ray in here.

Invariant: a step's loss is the weighted negative log-likelihood of the answer tokens, summed over the global batch and
divided by its number of answer tokens, whatever the number of workers, the ZeRO stage, accumulation or packing.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from semievol_ray import folders, schema, storage
from semievol_ray.config import SpeedConfig, TrainConfig
from semievol_ray.core.prompts import question_messages
from semievol_ray.engines.base import Tokenizer
from semievol_ray.engines.batches import in_order, num_steps
from semievol_ray.engines.deepspeedconfig import deepspeed_config, micro_batch
from semievol_ray.engines.fit import refuse_unfit
from semievol_ray.engines.loss import TrainingExample
from semievol_ray.engines.operators import load_cpu_operators
from semievol_ray.engines.pace import Pace, Work
from semievol_ray.engines.pilot import pilot, shortage_explained
from semievol_ray.engines.rendering import answer_ids, end_of_turn_id, load_tokenizer, prompt_ids
from semievol_ray.engines.saving import save
from semievol_ray.engines.trainable import load_base, trainable
from semievol_ray.engines.trainer import answer_trainer, curve_writer
from semievol_ray.engines.weights import local_weights
from semievol_ray.errors import DataError
from semievol_ray.tasks import Task


@dataclass(frozen=True)
class FinetuneSpec:
    """One fine-tuning as plain values: what to learn from, how, and where the adapter and the loss curve go."""

    model_path: str
    examples: tuple[str, ...]
    task: Task
    train: TrainConfig
    speed: SpeedConfig
    dtype: str
    max_model_len: int
    template_date: str
    seed: int
    on_gpu: bool
    out: str
    curve: str
    deepspeed: Mapping[str, Any] = field(default_factory=dict)
    """A user's own DeepSpeed settings, by value: the file need not be on every machine."""


def finetune(spec: FinetuneSpec, num_threads: int | None = None) -> dict[str, float]:
    """Fine-tune and save the adapter, or the whole model, to `spec.out`; in every worker, torch.distributed being up.

    `num_threads` is torch's on a CPU, its own choice when None. Returns train_loss, num_steps, num_examples and
    train_seconds. Raises DataError when there is no example or one is too long, PlacementError when memory does not do,
    RunStopped when the loss is no number.
    """
    import torch
    from transformers import set_seed

    if num_threads is not None:
        torch.set_num_threads(num_threads)
    if not spec.on_gpu:
        load_cpu_operators(Path(folders.cache_folder()))
    _join_workers(on_gpu=spec.on_gpu)
    model_path = local_weights(spec.model_path)
    tokenizer = load_tokenizer(model_path)
    examples = tokenised(read_examples(spec.examples), spec, tokenizer)
    sizing = refuse_unfit(model_path, spec.train, spec.speed, spec.dtype, examples, on_gpu=spec.on_gpu)
    arguments = _arguments(spec, len(examples))  # before the model: ZeRO-3 cuts it up as it is loaded
    packs_on_gpu = spec.speed.packing and spec.on_gpu
    model = load_base(model_path, spec.train, spec.dtype, packs_on_gpu=packs_on_gpu)
    set_seed(spec.seed)  # the adapter's first values are the same however the model was loaded
    ordered = in_order(examples, spec.train, spec.seed)
    work = Work(ordered, spec.train.train_batch_size, spec.speed.num_train_workers, spec.dtype, spec.on_gpu, sizing)
    with shortage_explained(sizing):
        trainer = answer_trainer(
            model=trainable(model, spec.train),
            arguments=arguments,
            examples=ordered,
            packing=spec.speed.packing,
            callbacks=[curve_writer(spec.curve, Pace(work)), pilot(sizing, ordered)],
        )
        output = trainer.train()
    save(trainer, tokenizer, spec.out)
    return {
        "train_loss": output.training_loss,
        "num_steps": float(output.global_step),
        "num_examples": float(len(examples)),
        "train_seconds": output.metrics["train_runtime"],
    }


def _join_workers(*, on_gpu: bool) -> None:
    """DeepSpeed takes over the workers that Ray Train joined; else it counts one while ZeRO-3 loads the model."""
    import deepspeed
    import torch

    if torch.distributed.is_initialized():
        deepspeed.init_distributed(dist_backend="nccl" if on_gpu else "gloo", auto_mpi_discovery=False)


def read_examples(paths: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of EXAMPLES tables, in order."""
    return [row for path in paths for row in storage.read_table(path, schema.EXAMPLES).to_pylist()]


def tokenised(rows: Sequence[Mapping[str, Any]], spec: FinetuneSpec, tokenizer: Tokenizer) -> list[TrainingExample]:
    """Zero-demonstration prompt ids + answer ids of each row; DataError for no row or one above max_model_len."""
    if not rows:
        raise DataError("there is nothing to fine-tune on: no example. Check data.labeled, and what was accepted.")
    end = end_of_turn_id(tokenizer, spec.template_date)
    examples = []
    for row in rows:
        question = spec.task.render_question(row["question"], row["options"])
        prompt = prompt_ids(tokenizer, question_messages(spec.task.instruction, question, ()), spec.template_date)
        answer = answer_ids(tokenizer, spec.task.render_answer(row["answer"]), end)
        if len(prompt) + len(answer) > spec.max_model_len:
            raise DataError(
                f"row {row['id']} takes {len(prompt) + len(answer)} tokens, more than numerics.max_model_len "
                f"{spec.max_model_len}. Raise max_model_len, or shorten or remove the row: none is cut silently."
            )
        examples.append(TrainingExample((*prompt, *answer), len(answer), row["weight"], row["id"]))
    return examples


def _arguments(spec: FinetuneSpec, num_examples: int) -> Any:
    from transformers import TrainingArguments

    train, speed = spec.train, spec.speed
    micro, accumulated = micro_batch(train, speed)
    config = deepspeed_config(train, speed, on_gpu=spec.on_gpu, dtype=spec.dtype, own=spec.deepspeed)
    return TrainingArguments(
        output_dir=_trainer_folder(spec.curve),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulated,
        learning_rate=train.learning_rate,
        max_steps=num_steps(train, num_examples),
        lr_scheduler_type=train.lr_scheduler_type,
        warmup_steps=train.warmup_ratio,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        seed=spec.seed,
        use_cpu=not spec.on_gpu,
        bf16=spec.dtype == "bfloat16",
        fp16=spec.dtype == "float16",
        gradient_checkpointing=speed.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if speed.gradient_checkpointing else None,
        deepspeed=config,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=spec.on_gpu,
    )


def _trainer_folder(curve: str) -> str:
    """Where transformers may write, though it is told to save nothing: beside the curve, or on this machine."""
    folder = tempfile.gettempdir() if storage.is_remote(curve) else os.path.dirname(curve)  # noqa: PTH120
    return f"{folder}/trainer"
