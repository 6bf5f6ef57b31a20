"""The rounds: warm up, then retrieve, collaborate, select and evolve, as method.md's table has them.

Invariant: this reads as the algorithm; a step that is committed returns at once, so there is no resume in here.
"""

import signal
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from semievol_ray import storage
from semievol_ray.config import RunConfig
from semievol_ray.core.selection import Decision
from semievol_ray.engines.finetune import FinetuneSpec
from semievol_ray.errors import ConfigError, NothingAcceptedError
from semievol_ray.extras import check_extras
from semievol_ray.placement import place_training
from semievol_ray.progress import Progress
from semievol_ray.runs import Run, Step
from semievol_ray.stages.answer import answer, answer_round, evaluation
from semievol_ray.stages.context import Adapter, Context
from semievol_ray.stages.evaluate import pseudo_label_metrics
from semievol_ray.stages.ingest import Data, ingest
from semievol_ray.stages.retrieve import RetrieveJob, retrieve
from semievol_ray.stages.select import TIES_WARNING_POINTS, choose_threshold, decisions, select
from semievol_ray.stages.train import Accepted, examples_parts, train, train_scripted, write_examples

BASE_EVALUATION = "base/evaluate"


@dataclass(frozen=True)
class Finished:
    """A run that reached its end: its folder and the last round's adapter."""

    root: str
    adapter: Adapter


def run(config: RunConfig, root: str, progress: Progress | None = None) -> Finished:
    """Do what is left of a run in the folder `root`. Raises what errors.py names; running again continues."""
    progress = progress or Progress()
    check_models(config)
    check_extras(config)
    manifest = {"name": config.name, "config": config.model_dump(mode="json")}
    with ExitStack() as closing, Run.open(root, manifest) as held, _terminated_as_interrupt():
        finished = evolve(Context(held, config, progress, closing))
        held.save_manifest(manifest)
        return finished


def evolve(context: Context) -> Finished:
    """Algorithm 1: M_warm from D_L, then rounds of pseudo-labels, each evolving M_base on all that was accepted."""
    data = ingest(context.run, context.config, context.task)
    adapter = fine_tune(context, 0, data, [])
    accepted: list[Accepted] = []
    for number in range(1, context.config.method.rounds + 1):
        shown = retrieve_demonstrations(context, number, data)
        due = [(BASE_EVALUATION, None), ("rounds/0000/evaluate", adapter)] if number == 1 else []
        justified = answer_round(context, number, data, shown, adapter, due)
        selection = select_pseudo_labels(context, number, data, justified)
        accepted.append(Accepted(data.unlabeled, selection, number))
        adapter = fine_tune(context, number, data, accepted)
    if data.test:
        last = evaluation(context, f"rounds/{context.config.method.rounds:04d}/evaluate", data.test, adapter)
        answer(context, "evaluate", [last])
    return Finished(context.run.root, adapter)


def fine_tune(context: Context, number: int, data: Data, accepted: Sequence[Accepted]) -> Adapter:
    """M_base fine-tuned on the labeled rows and everything accepted so far; the adapter of round `number`."""
    examples = _examples(context, number, data, accepted)
    config, model = context.config, context.model()
    numerics = config.numerics.model_dump(mode="json", include={"train_dtype", "max_model_len", "template_date"})
    settings = {
        "task": context.task.settings(),
        "train": config.train.model_dump(mode="json", exclude={"pseudo_label_weight"}),
    }
    step = context.step(
        f"rounds/{number:04d}/train",
        settings={**settings, "numerics": numerics, "seed": config.seed},
        inputs={"examples": examples.digest(), "model": model.digest},
        parts=[],
        numerics=lambda: {"dtype": context.training_dtype(), "device": "gpu" if context.on_gpu else "cpu"},
    )
    out = f"{step.path}/adapter"
    if not step.committed():
        metrics, digest = _train(context, step, examples, out)
        context.run.commit(step, metrics, outputs={"adapter": digest})
    return adapter_of(step, config, number)


def adapter_of(step: Step, config: RunConfig, number: int) -> Adapter:
    """The adapter that the committed fine-tuning of round `number` saved."""
    digest = step.digest()
    return Adapter(f"{step.path}/adapter", digest, f"{config.name}-{number:04d}-{digest[:8]}")


def retrieve_demonstrations(context: Context, number: int, data: Data) -> Step | None:
    """The nearest labeled questions of each pool row; None when no collaborator shows any."""
    method = context.config.method
    if method.num_demonstrations == 0:
        return None
    embedder = context.model(method.embedder)
    step = context.step(
        f"rounds/{number:04d}/retrieve",
        settings={"k": method.num_demonstrations, "embedder": embedder.name},
        inputs={"labeled": data.labeled.digest(), "unlabeled": data.unlabeled.digest(), "embedder": embedder.digest},
        parts=data.unlabeled.parts,
    )
    if not step.committed():
        assert context.resources
        job = RetrieveJob(step, data.unlabeled, data.labeled, embedder.path, method.num_demonstrations)
        total, left = (_num_rows(data.unlabeled, parts) for parts in (step.parts, step.missing_parts()))
        with context.progress.step(f"round-{number} retrieve", total, done=total - left) as bar:
            retrieve(job, bar.advance)
        context.run.commit(step, {})
    return step


def select_pseudo_labels(context: Context, number: int, data: Data, justified: Step) -> Step:
    """tau at theta, and each row's decision. Raises NothingAcceptedError when no row is accepted."""
    theta = context.config.method.theta
    step = context.step(
        f"rounds/{number:04d}/select",
        settings={"theta": theta},
        inputs={"justify": justified.digest()},
        parts=data.unlabeled.parts,
    )
    if not step.committed():
        assert context.resources
        chosen = choose_threshold(justified, theta)
        with context.progress.step(f"round-{number} select", _num_rows(data.unlabeled, step.missing_parts())) as bar:
            select(step, data.unlabeled, justified, chosen.tau, lambda decided: bar.advance(decided.total()))
        if chosen.ties_points > TIES_WARNING_POINTS:
            context.progress.say(
                f"warning: ties at tau {chosen.tau:.4g} keep {chosen.ties_points:.1f} points more than theta {theta:g}"
            )
        audit = pseudo_label_metrics(step, data.gold, context.task)
        context.run.commit(
            step, {"tau": chosen.tau, "num_answered": chosen.num_answered, "ties_points": chosen.ties_points, **audit}
        )
    if not decisions(step)[Decision.ACCEPTED]:
        raise NothingAcceptedError(f"{step.name}: no row was accepted, so there is nothing to evolve on.")
    return step


def check_models(config: RunConfig) -> None:
    """Refuse names that can be no model before anything is spent. Raises ConfigError naming the key."""
    from semievol_ray.engines.models import model_known
    from semievol_ray.engines.packaged import PACKAGED

    if config.numerics.engine == "scripted":
        return
    named = {"model": config.model, "method.embedder": config.method.embedder}
    named |= {f"method.collaborators.{c.name}.model": c.model for c in config.method.collaborators if c.model}
    for key, name in named.items():
        if name != "hash" and not model_known(name):
            raise ConfigError(
                f"{key}: no model {name!r} is known. Give a folder with a config.json, a hub name such as "
                f"org/name, or a packaged model: {', '.join(PACKAGED)}."
            )


def _examples(context: Context, number: int, data: Data, accepted: Sequence[Accepted]) -> Step:
    weight = context.config.train.pseudo_label_weight
    inputs = {"labeled": data.labeled.digest()} | {f"round-{a.round}": a.selection.digest() for a in accepted}
    step = context.step(
        f"rounds/{number:04d}/examples",
        settings={"pseudo_label_weight": weight} if accepted else {},
        inputs=inputs,
        parts=examples_parts(data.labeled, accepted),
    )
    if not step.committed():
        assert context.resources
        write_examples(step, data.labeled, accepted, weight)
        context.run.commit(step, {})
    return step


def _train(context: Context, step: Step, examples: Step, out: str) -> tuple[dict[str, float], str]:
    config = context.config
    cpus, gpus = place_training(config.speed, context.resources)
    spec = FinetuneSpec(
        model_path=context.model().path,
        examples=tuple(examples.part_path(part) for part in examples.parts),
        task=context.task,
        train=config.train,
        speed=config.speed,
        dtype=step.numerics()["dtype"],
        max_model_len=config.numerics.max_model_len,
        template_date=config.numerics.template_date,
        seed=config.seed,
        on_gpu=gpus > 0,
        out=out,
        curve=f"{step.path}/curve.jsonl",
    )
    if config.numerics.engine == "scripted":
        return train_scripted(spec)
    num_rows = _num_rows(examples, examples.parts)
    total = -(-num_rows // config.train.train_batch_size) * config.train.num_train_epochs

    def on_step(line: dict[str, Any]) -> None:
        bar.advance(1, f"loss {line['loss']:.3f}")

    with context.progress.step(step.name.replace("rounds/", "round ").replace("/", " "), total, "steps") as bar:
        return train(spec, config.speed.num_train_workers, cpus, gpus, on_step)


def _num_rows(step: Step, parts: Sequence[str]) -> int:
    return sum(storage.num_rows(step.part_path(part)) for part in parts)


class _terminated_as_interrupt:  # noqa: N801
    """Within the block SIGTERM stops as cleanly as Ctrl-C; only the main thread can set it."""

    def __enter__(self) -> None:
        self._old = None
        if threading.current_thread() is threading.main_thread():
            self._old = signal.signal(signal.SIGTERM, self._interrupt)

    def __exit__(self, *_: object) -> None:
        if self._old is not None:
            signal.signal(signal.SIGTERM, self._old)

    @staticmethod
    def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG004
        raise KeyboardInterrupt


def default_root(config: RunConfig) -> str:
    """Where a run lies when no --run is given: runs/<name> in the working directory."""
    return str(Path("runs") / config.name)
