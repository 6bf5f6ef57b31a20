"""transformers.Trainer + PEFT + DeepSpeed on the examples of a run; no ray in here.

Invariant: a step's loss is the weighted negative log-likelihood of the answer tokens, summed over the global batch and
divided by its number of answer tokens, whatever the number of workers, the ZeRO stage, accumulation or packing.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from semievol_ray import folders, schema, storage
from semievol_ray.config import SpeedConfig, TrainConfig
from semievol_ray.core.prompts import question_messages
from semievol_ray.engines.base import Tokenizer
from semievol_ray.engines.batches import in_order, num_steps, warm_up
from semievol_ray.engines.checkpointfiles import agreed_checkpoint, learned, put_learned
from semievol_ray.engines.deepspeedconfig import deepspeed_config, micro_batch
from semievol_ray.engines.examples import forget, opened, store
from semievol_ray.engines.fit import Sizing, refuse_unfit
from semievol_ray.engines.keeping import Keeper, Rules
from semievol_ray.engines.leaving import Leaving
from semievol_ray.engines.loss import TrainingExample
from semievol_ray.engines.operators import load_cpu_operators
from semievol_ray.engines.pace import Pace, Work
from semievol_ray.engines.pilot import pilot, shortage_explained
from semievol_ray.engines.references import local_weights
from semievol_ray.engines.rendering import answer_ids, end_of_turn_id, load_tokenizer, prompt_ids
from semievol_ray.engines.reopening import store_logits
from semievol_ray.engines.saving import save
from semievol_ray.engines.trainable import load_base, trainable
from semievol_ray.engines.trainer import Course, answer_trainer, curve_writer, is_overflow, overflowed
from semievol_ray.engines.validating import eval_steps
from semievol_ray.errors import DataError, RunStopped
from semievol_ray.lease import Claim
from semievol_ray.records import encode
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
    checkpoints: str = ""
    """The folder of checkpoints; without one none is made, and the fine-tuning always begins at its beginning."""
    origin: Mapping[str, str] = field(default_factory=dict)
    """Digests of the model and the data, by name: a checkpoint of others is refused."""
    validation: tuple[str, ...] = ()
    """Tables of LABELED rows that train.early_stopping judges by."""
    tokens: tuple[str, ...] = ()
    """Files of the examples as `write_tokens` made them; without any each worker tokenises them itself."""
    logits: str = ""
    """The file of what the model says to an example at the end, for another process to compare; none without it."""
    deadline: float | None = None
    """A moment, as time.time() counts, before which to save and stop."""
    claim: Claim | None = None
    """The driver's to the run: once another driver has it, nothing more is stored."""

    def is_lost(self) -> bool:
        """Whether another driver has the run by now."""
        return self.claim is not None and self.claim.is_lost()

    def require_claim(self) -> None:
        """RunInUseError when another driver has the run by now."""
        if self.claim is not None:
            self.claim.check()


@dataclass(frozen=True)
class Surroundings:
    """What a worker is given besides its spec. num_threads: torch's on CPUs, its own choice when None.

    on_saved(path, step): called in every worker once a checkpoint is committed. is_machine_leaving(): whether this
    worker's machine goes away soon.
    """

    num_threads: int | None = None
    on_saved: Callable[[str, int], None] = lambda _path, _step: None
    is_machine_leaving: Callable[[], bool] = lambda: False


def finetune(spec: FinetuneSpec, around: Surroundings = Surroundings()) -> dict[str, float]:
    """Fine-tune and save the adapter, or the whole model, to `spec.out`; in every worker, torch.distributed being up.

    Goes on from the last whole checkpoint in `spec.checkpoints`. Returns train_loss, num_steps, num_examples and
    train_seconds, of the validations too. Raises DataError when there is no example or one is too long, PlacementError
    when memory does not do, ConfigError when the checkpoint is of another fine-tuning, RunStopped when the loss is no
    number or it leaves before the end, RunInUseError when another driver has the run.
    """
    import torch
    from transformers import set_seed

    if around.num_threads is not None:
        torch.set_num_threads(around.num_threads)
    if not spec.on_gpu:
        load_cpu_operators(Path(folders.cache_folder()))
    _join_workers(on_gpu=spec.on_gpu)
    model_path = local_weights(spec.model_path)
    tokenizer = load_tokenizer(model_path)
    examples = _examples(spec, tokenizer)
    sizing = refuse_unfit(model_path, spec.train, spec.speed, spec.dtype, examples, on_gpu=spec.on_gpu)
    arguments = _arguments(spec, len(examples))  # before the model: ZeRO-3 cuts it up as it is loaded
    keeper = _keeper(spec, around, len(examples), tokenizer)
    packs_on_gpu = spec.speed.packing and spec.on_gpu
    model = load_base(model_path, spec.train, spec.dtype, packs_on_gpu=packs_on_gpu)
    set_seed(spec.seed)  # the adapter's first values are the same however the model was loaded
    model = trainable(model, spec.train)
    if keeper.resumed is not None:
        put_learned(model, keeper.resumed)
    began = time.monotonic()
    steps, engine = _trained(spec, model, arguments, examples, keeper, sizing)
    best, first = keeper.best, arguments.process_index == 0
    earlier = best if best and best.step != steps else None
    keeper.require_claim(arguments)
    if spec.logits and engine is not None:
        store_logits(spec.logits, model, engine, earlier, examples[0].ids, device=arguments.device, first=first)
    save(model, tokenizer, spec.out, first=first, values=learned(earlier) if earlier and first else None)
    if spec.tokens and os.environ.get("LOCAL_RANK", "0") == "0":
        forget(spec.tokens)
    metrics = {
        "train_loss": keeper.loss_sum / max(1, steps),
        "num_steps": float(steps),
        "num_examples": float(len(examples)),
        "train_seconds": time.monotonic() - began,
    }
    found = keeper.verdict
    validated = {"validation_loss": found.best_loss, "best_step": float(found.best_step)} if best else {}
    return {**metrics, **validated}


def _trained(
    spec: FinetuneSpec,
    model: Any,
    arguments: Any,
    examples: Sequence[TrainingExample],
    keeper: Keeper,
    sizing: Sizing | None,
) -> tuple[int, Any]:
    """Train from where the keeper stands to the end; the number of the last step, and DeepSpeed's engine if any ran."""
    done = keeper.resumed.step if keeper.resumed else 0
    rule = spec.train.early_stopping
    if done >= arguments.max_steps or (rule and keeper.verdict.is_over(rule)):
        return done, None
    ordered, batch = in_order(examples, spec.train, spec.seed), spec.train.train_batch_size
    work = Work(ordered, batch, spec.speed.num_train_workers, spec.dtype, spec.on_gpu, sizing)
    with shortage_explained(sizing):
        trainer = answer_trainer(
            model=model,
            arguments=arguments,
            examples=ordered,
            packing=spec.speed.packing,
            callbacks=[curve_writer(spec.curve, Pace(work)), pilot(sizing, ordered[done * batch :])],
            course=Course(done, keeper.begun, keeper.stepped),
        )
        try:
            return int(trainer.train().global_step), trainer.model_wrapped
        except Exception as error:
            if is_overflow(error):
                raise RunStopped(overflowed(trainer.state.global_step)) from error
            raise


def identity_of(spec: FinetuneSpec) -> dict[str, Any]:
    """What a checkpoint has to share with a fine-tuning that goes on from it; the number of workers is none of it."""
    named: dict[str, Any] = {
        "origin": dict(spec.origin),
        "task": spec.task.settings(),
        "train": spec.train.model_dump(mode="json", exclude={"pseudo_label_weight"}, exclude_none=True),
        "dtype": spec.dtype,
        "max_model_len": spec.max_model_len,
        "template_date": spec.template_date,
        "seed": spec.seed,
    }
    return dict(json.loads(encode(named)))


def _keeper(spec: FinetuneSpec, around: Surroundings, num_examples: int, tokenizer: Tokenizer) -> Keeper:
    """The keeper of this worker, at the checkpoint that the first worker found."""
    train, speed = spec.train, spec.speed
    rule = train.early_stopping
    rows = [{**row, "weight": 1.0} for row in read_rows(spec.validation, schema.LABELED)]
    rules = Rules(
        folder=spec.checkpoints,
        identity=identity_of(spec) if spec.checkpoints else {},
        save_steps=speed.save_steps,
        save_total_limit=speed.save_total_limit,
        early_stopping=rule,
        eval_steps=eval_steps(rule, num_examples, train.train_batch_size) if rule else 1,
        validation=tokenised(rows, spec, tokenizer) if rule else [],
        packing=speed.packing,
    )
    resumed = agreed_checkpoint(spec.checkpoints, rules.identity) if spec.checkpoints else None
    leaving = Leaving(spec.checkpoints, spec.deadline, around.is_machine_leaving, spec.claim)
    return Keeper(rules, resumed, leaving, around.on_saved)


def _join_workers(*, on_gpu: bool) -> None:
    """DeepSpeed takes over the workers that Ray Train joined; else it counts one while ZeRO-3 loads the model."""
    import deepspeed
    import torch

    if torch.distributed.is_initialized():
        deepspeed.init_distributed(dist_backend="nccl" if on_gpu else "gloo", auto_mpi_discovery=False)


def read_examples(paths: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of EXAMPLES tables, in order."""
    return read_rows(paths, schema.EXAMPLES)


def write_tokens(spec: FinetuneSpec, examples: Sequence[str], path: str) -> None:
    """Store some tables of EXAMPLES tokenised as one file. Raises DataError when one is too long."""
    tokenizer = load_tokenizer(local_weights(spec.model_path))
    parts = (read_examples((part,)) for part in examples)
    store(path, (tokenised(rows, spec, tokenizer) for rows in parts if rows))


def _examples(spec: FinetuneSpec, tokenizer: Tokenizer) -> Sequence[TrainingExample]:
    return opened(spec.tokens) if spec.tokens else tokenised(read_examples(spec.examples), spec, tokenizer)


def read_rows(paths: Sequence[str], of: Any) -> list[dict[str, Any]]:
    """The rows of tables of one schema, in order."""
    return [row for path in paths for row in storage.read_table(path, of).to_pylist()]


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
        warmup_steps=warm_up(train, num_steps(train, num_examples)),
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
