"""Learning: examples, fine-tunings and imported adapters as committed steps.

Invariant: every fine-tuning starts from a base model, never from another adapter; its checkpoints stay until what was
learned is committed.
"""

from collections.abc import Mapping
from typing import Any

from semievol_ray import folders, storage
from semievol_ray.config import TrainConfig
from semievol_ray.engines.adapters import CONFIG, WEIGHTS, adapter_digest, is_whole_model, unlearned, verify_adapter
from semievol_ray.engines.batches import num_steps, told
from semievol_ray.engines.deepspeedconfig import deepspeed_config, own_settings
from semievol_ray.engines.finetune import FinetuneSpec
from semievol_ray.engines.fit import reckoned
from semievol_ray.errors import AdapterError, ConfigError
from semievol_ray.listing import step_digest
from semievol_ray.placement import place_training
from semievol_ray.progress import duration
from semievol_ray.runs import Step
from semievol_ray.stages.context import Adapter, Context, require_device
from semievol_ray.stages.counting import commit
from semievol_ray.stages.pacelines import forecast, paced
from semievol_ray.stages.reopen import reopened
from semievol_ray.stages.tokenise import files_of, with_tokens
from semievol_ray.stages.train import Learned, train, train_scripted, write_examples


def examples_of(context: Context, folder: str, learned: Learned) -> Step:
    """EXAMPLES of a fine-tuning, committed as `<folder>/examples`."""
    weight = context.config.train.pseudo_label_weight
    inputs = {"labeled": learned.labeled.digest()}
    inputs |= {f"annotated-{i:04d}": step.digest() for i, step in enumerate(learned.annotations)}
    inputs |= {f"round-{a.round}": a.selection.digest() for a in learned.accepted}
    step = context.step(
        f"{folder}/examples",
        settings={"pseudo_label_weight": weight} if learned.accepted else {},
        inputs=inputs,
        parts=learned.parts(),
    )
    if not step.committed():
        assert context.resources
        with context.progress.slow(f"{folder}/examples", len(step.missing_parts())) as bar:
            write_examples(step, learned, weight, bar.advance)
        commit(context, step, {})
    return step


def fine_tuned(
    context: Context,
    folder: str,
    examples: Step,
    *,
    train: TrainConfig | None = None,
    model: str | None = None,
    validation: Step | None = None,
) -> Adapter:
    """A base model (the student when `model` is None) fine-tuned on EXAMPLES, committed as `<folder>/train`.

    validation: the fold that train.early_stopping judges by.
    """
    config, base = context.config, context.model(model)
    numerics = config.numerics.model_dump(mode="json", include={"train_dtype", "max_model_len", "template_date"})
    tuning = train or config.train
    judged = validation if tuning.early_stopping else None
    step = context.step(
        f"{folder}/train",
        settings={
            "task": context.task.settings(),
            "train": tuning.model_dump(mode="json", exclude={"pseudo_label_weight"}, exclude_none=True),
            "numerics": numerics,
            "seed": config.seed,
        },
        inputs={"examples": examples.digest(), "model": base.digest}
        | ({"validation": judged.digest()} if judged else {}),
        parts=[],
        numerics=lambda: {"dtype": context.training_dtype(), "device": "gpu" if context.on_gpu else "cpu"},
    )
    if not step.committed():
        metrics, digest = _train(context, step, examples, tuning, base.reference, judged)
        if "num_unlearned" in metrics:
            _tell_unlearned(context, step)
        context.run.commit(step, metrics, outputs={"adapter": digest})
    for folder in (_checkpoints(step), _tokens(step)):
        storage.remove_folder(folder)  # of a committed step, too, whose driver ended before it came to this
    storage.remove(_logits(step))
    return adapter_of(step, config.name)


def imported(context: Context, folder: str, path: str) -> Adapter:
    """An adapter made elsewhere, checked and copied into the step `<folder>/train`. Raises ConfigError."""
    try:
        if is_whole_model(path):
            raise AdapterError(f"{path} is a whole model, and an adapter is wanted")
        found = verify_adapter(path)
    except AdapterError as error:
        raise ConfigError(f"method.warm_adapter: {error}. Give a folder with {CONFIG} and {WEIGHTS}.") from error
    digest = adapter_digest(path)
    step = context.step(
        f"{folder}/train",
        settings={"imported": True},
        inputs={"adapter": digest, "model": context.model().digest},
        parts=[],
    )
    if not step.committed():
        folders.put_folder(folders.local_copy(path), f"{step.path}/adapter")
        context.run.commit(step, {k: float(v) for k, v in found.items()}, outputs={"adapter": digest})
    return adapter_of(step, context.config.name)


def adapter_of(step: Step, run_name: str) -> Adapter:
    """The adapter that a committed fine-tuning saved; its name is new for every digest."""
    digest = step.digest()
    where = step.name.removesuffix("/train").rsplit("/", 1)[-1]
    return Adapter(f"{step.path}/adapter", digest, f"{run_name}-{where}-{digest[:8]}")


def refuse_changed(adapter: Adapter) -> None:
    """AdapterError when an adapter is not what its step committed; a whole model is left to `semievol verify`."""
    if is_whole_model(adapter.path):
        return
    if step_digest({}, {"adapter": adapter_digest(adapter.path)}) != adapter.digest:
        raise AdapterError(
            f"{adapter.path} is not the adapter that its step committed. `semievol verify RUN --repair` lets a run "
            "make it again."
        )


def _checkpoints(step: Step) -> str:
    return f"{step.path}/checkpoints"


def _tokens(step: Step) -> str:
    return f"{step.path}/tokens"


def _logits(step: Step) -> str:
    return f"{step.path}/logits.safetensors"


def _spec(
    context: Context, step: Step, examples: Step, tuning: TrainConfig, model_path: str, validation: Step | None
) -> FinetuneSpec:
    config = context.config
    return FinetuneSpec(
        model_path=model_path,
        examples=tuple(examples.part_path(part) for part in examples.parts),
        task=context.task,
        train=tuning,
        speed=config.speed,
        dtype=step.numerics()["dtype"],
        max_model_len=config.numerics.max_model_len,
        template_date=config.numerics.template_date,
        seed=config.seed,
        on_gpu=place_training(config.speed, context.resources)[1] > 0,
        out=f"{step.path}/adapter",
        curve=f"{step.path}/curve.jsonl",
        deepspeed=own_settings(config.speed.deepspeed),
        checkpoints=_checkpoints(step),
        logits=_logits(step),
        origin=step.record()["inputs"],
        validation=tuple(validation.part_path(part) for part in validation.parts) if validation else (),
        deadline=context.deadline,
        claim=context.run.claim,
    )


def _train(
    context: Context, step: Step, examples: Step, tuning: TrainConfig, model_path: str, validation: Step | None
) -> tuple[dict[str, float], str]:
    config = context.config
    cpus, gpus = place_training(config.speed, context.resources)
    require_device(step, on_gpu=gpus > 0)
    spec = _spec(context, step, examples, tuning, model_path, validation)
    if config.numerics.engine == "scripted":
        return train_scripted(spec)
    deepspeed_config(tuning, config.speed, on_gpu=spec.on_gpu, dtype=spec.dtype, own=spec.deepspeed)
    num_rows = examples.num_rows()
    context.progress.say(f"fine-tuning on {told(tuning, config.speed, num_rows)}")
    if needed := reckoned(model_path, tuning, config.speed, spec.dtype, on_gpu=spec.on_gpu):
        context.progress.say(needed)
    with context.progress.slow(f"{step.name}: tokenising", len(files_of(spec.examples))) as bar:
        spec = with_tokens(spec, _tokens(step), num_rows, bar.advance)

    def on_step(line: Mapping[str, Any]) -> None:
        bar.advance(1, paced(line))
        if estimate := forecast(line):
            context.progress.say(f"{step.name}: {estimate}")
        context.trackers.log("train", {f"{where}/{k}": v for k, v in line.items() if k != "step"}, line["step"])

    def on_silence(seconds: float) -> None:
        context.progress.say(
            f"{step.name}: no step of the fine-tuning for {duration(seconds)}. Its first takes longest; if none comes, "
            "`ray stack` on its machine shows where it stands; ended and started again, the same command goes on."
        )

    where = step.name.removesuffix("/train")
    name = step.name.replace("rounds/", "round ").replace("/", " ")
    with context.progress.step(name, num_steps(tuning, num_rows), "steps") as bar:
        metrics, digest = train(spec, config.speed.num_train_workers, cpus, gpus, on_step, on_silence)
    context.progress.say(f"{step.name}: reading what was saved in another process")
    return metrics | reopened(spec, cpus, gpus), digest


def _tell_unlearned(context: Context, step: Step) -> None:
    names = unlearned(f"{step.path}/adapter")
    more = f" and {len(names) - 3} others" if len(names) > 3 else ""
    context.progress.say(f"warning: {step.name}: nothing was learned in {', '.join(names[:3])}{more}")
