"""transformers.Trainer + PEFT + DeepSpeed on the examples of a run; no ray in here.

Invariant: a step's loss is the weighted negative log-likelihood of the answer tokens, summed over the global batch and
divided by its number of answer tokens, whatever the number of workers or of accumulated micro-batches.
"""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semievol_ray import folders, schema, storage
from semievol_ray.config import SpeedConfig, TrainConfig
from semievol_ray.core.prompts import question_messages
from semievol_ray.engines.adapters import verify_adapter
from semievol_ray.engines.base import Tokenizer
from semievol_ray.engines.loss import TrainingExample, answer_loss, collate
from semievol_ray.engines.operators import load_cpu_operators
from semievol_ray.engines.rendering import answer_ids, end_of_turn_id, load_tokenizer, prompt_ids
from semievol_ray.engines.weights import local_weights
from semievol_ray.errors import DataError
from semievol_ray.events import LineLog
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


def finetune(spec: FinetuneSpec, num_threads: int | None = None) -> dict[str, float]:
    """Fine-tune with LoRA and save the adapter to `spec.out`; runs in every worker, torch.distributed already up.

    `num_threads` is torch's on a CPU, its own choice when None. Returns train_loss, num_steps, num_examples and
    train_seconds. Raises DataError when an example is too long.
    """
    import torch
    from transformers import AutoModelForCausalLM, set_seed

    if num_threads is not None:
        torch.set_num_threads(num_threads)
    if not spec.on_gpu:
        load_cpu_operators(Path(folders.cache_folder()))
    set_seed(spec.seed)
    model_path = local_weights(spec.model_path)
    tokenizer = load_tokenizer(model_path)
    examples = tokenised(read_examples(spec.examples), spec, tokenizer)
    model = AutoModelForCausalLM.from_pretrained(
        model_path, dtype=getattr(torch, spec.dtype), local_files_only=True, trust_remote_code=False
    )
    trainer = _trainer(spec, _with_lora(model, spec.train), examples)
    output = trainer.train()
    _save(trainer, spec.out)
    return {
        "train_loss": output.training_loss,
        "num_steps": float(output.global_step),
        "num_examples": float(len(examples)),
        "train_seconds": output.metrics["train_runtime"],
    }


def read_examples(paths: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of EXAMPLES tables, in order."""
    return [row for path in paths for row in storage.read_table(path, schema.EXAMPLES).to_pylist()]


def tokenised(rows: Sequence[Mapping[str, Any]], spec: FinetuneSpec, tokenizer: Tokenizer) -> list[TrainingExample]:
    """Zero-demonstration prompt ids + answer ids of each row; DataError when one exceeds max_model_len."""
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
        examples.append(TrainingExample((*prompt, *answer), len(answer), row["weight"]))
    return examples


def deepspeed_config(zero_stage: int, *, on_gpu: bool, dtype: str) -> dict[str, Any]:
    """DeepSpeed's dict for a ZeRO stage; batch sizes and clipping are the Trainer's ("auto")."""
    config: dict[str, Any] = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_optimization": {"stage": zero_stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": dtype == "bfloat16"},
    }
    if zero_stage == 3:
        config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = True
    if not on_gpu:
        config["communication_data_type"] = "fp32"
    return config


def _with_lora(model: Any, train: TrainConfig) -> Any:
    from peft import LoraConfig, get_peft_model

    targets = train.target_modules if isinstance(train.target_modules, str) else list(train.target_modules)
    model.config.use_cache = False
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=train.lora_r,
        lora_alpha=train.lora_alpha,
        lora_dropout=train.lora_dropout,
        target_modules=targets,
    )
    return get_peft_model(model, lora)


def _trainer(spec: FinetuneSpec, model: Any, examples: Sequence[TrainingExample]) -> Any:
    from transformers import Trainer

    class AnswerTrainer(Trainer):
        """A Trainer whose loss is `weighted_nll` over the answer positions alone."""

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            loss, out = answer_loss(model, inputs, num_items_in_batch)
            loss = loss * self.args.world_size  # gradients are averaged over the workers
            return (loss, out) if return_outputs else loss

    return AnswerTrainer(
        model=model,
        args=_arguments(spec),
        train_dataset=_Rows(examples),
        data_collator=lambda rows: collate(rows, pad=0),
        callbacks=[_curve_writer(spec.curve)],
    )


class _Rows:
    """A map-style data set over a sequence."""

    def __init__(self, rows: Sequence[TrainingExample]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> TrainingExample:
        return self._rows[index]


def _arguments(spec: FinetuneSpec) -> Any:
    from transformers import TrainingArguments

    train, speed = spec.train, spec.speed
    per_worker = train.train_batch_size // speed.num_train_workers
    micro = max(d for d in range(1, min(speed.per_device_train_batch_size, per_worker) + 1) if per_worker % d == 0)
    return TrainingArguments(
        output_dir=_trainer_folder(spec.curve),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=per_worker // micro,
        learning_rate=train.learning_rate,
        num_train_epochs=train.num_train_epochs,
        max_steps=train.max_steps or -1,
        lr_scheduler_type=train.lr_scheduler_type,
        warmup_steps=train.warmup_ratio,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        seed=spec.seed,
        use_cpu=not spec.on_gpu,
        bf16=spec.on_gpu and spec.dtype == "bfloat16",
        gradient_checkpointing=speed.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if speed.gradient_checkpointing else None,
        deepspeed=deepspeed_config(speed.zero_stage, on_gpu=spec.on_gpu, dtype=spec.dtype),
        logging_steps=1,
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


def _curve_writer(path: str) -> Any:
    from transformers import TrainerCallback

    curve = LineLog(path)

    class CurveWriter(TrainerCallback):
        """Appends one JSON line a step: step, of how many, loss, gradient norm, learning rate."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
            if state.is_world_process_zero and logs and "loss" in logs:
                line = {"step": state.global_step, "num_steps": state.max_steps, **logs}
                curve.write(json.dumps(line))

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            curve.close()

    return CurveWriter()


def _save(trainer: Any, out: str) -> None:
    """Every worker takes part (ZeRO-3 gathers the trainable parameters alone); the first one writes."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gathered = {}
    for name, parameter in trainable.items():
        with _gathered(parameter, trainer.args.deepspeed):
            gathered[name] = parameter.detach().float().cpu().clone()
    if trainer.args.process_index == 0:
        with folders.local_folder(out) as folder:
            model.save_pretrained(folder, state_dict=gathered)
            if folder != out:
                verify_adapter(folder)


def _gathered(parameter: Any, uses_deepspeed: Any) -> Any:
    import contextlib

    if not uses_deepspeed or not hasattr(parameter, "ds_id"):
        return contextlib.nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter], modifier_rank=None)
