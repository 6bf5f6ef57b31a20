"""Train: D_L and everything accepted so far -> examples -> a fine-tuned adapter of M_base, on Ray Train.

Invariant: every fine-tuning starts from M_base; the step commits only after its saved adapter was re-opened, checked.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from semievol_ray import schema, storage
from semievol_ray.core.selection import Decision
from semievol_ray.engines.adapters import adapter_digest, verify_adapter
from semievol_ray.engines.finetune import FinetuneSpec, finetune, read_examples
from semievol_ray.errors import RunStopped
from semievol_ray.runs import Step
from semievol_ray.stages.cluster import map_parts
from semievol_ray.steps import encode, json_lines, read_json

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Accepted:
    """One round's pool, selection and number."""

    pool: Step
    selection: Step
    round: int


def examples_parts(labeled: Step, accepted: Sequence[Accepted]) -> list[str]:
    """Names of the parts of EXAMPLES: the labeled parts, then each round's pool parts."""
    names = [f"labeled-{part}" for part in labeled.parts]
    return names + [f"round-{a.round:04d}-{part}" for a in accepted for part in a.pool.parts]


def write_examples(step: Step, labeled: Step, accepted: Sequence[Accepted], pseudo_weight: float) -> None:
    """Commit EXAMPLES: gold rows with weight 1, accepted rows with `pseudo_weight`."""
    names = step.missing_parts()
    for _ in map_parts(
        _write_examples, names, step=step, labeled=labeled, accepted=tuple(accepted), weight=pseudo_weight
    ):
        pass


def train(
    spec: FinetuneSpec, num_workers: int, cpus: float, gpus: float, on_step: Callable[[dict[str, Any]], None]
) -> tuple[dict[str, float], str]:
    """Fine-tune on Ray Train; returns metrics and the digest of the adapter saved in `spec.out`.

    `on_step` gets the lines of the loss curve as they come. Raises RunStopped when a worker fails, AdapterError when
    the saved adapter is not usable.
    """
    if storage.exists(spec.curve):
        storage.remove(spec.curve)
    with _followed(spec.curve, on_step):
        metrics = _fit(spec, num_workers, cpus, gpus)
    metrics |= {k: float(v) for k, v in verify_adapter(spec.out).items()}
    return metrics, adapter_digest(spec.out)


def _fit(spec: FinetuneSpec, num_workers: int, cpus: float, gpus: float) -> dict[str, float]:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    folder = os.path.dirname(spec.curve)  # noqa: PTH120
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={"spec": spec, "num_threads": max(1, int(cpus))},
        torch_config=TorchConfig(backend="nccl" if spec.on_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": cpus} | ({"GPU": gpus} if gpus else {}),
        ),
        run_config=RunConfig(name="ray", storage_path=os.path.abspath(folder)),  # noqa: PTH100
    )
    try:
        trainer.fit()
    except KeyboardInterrupt:
        raise
    except Exception as error:  # Ray Train wraps whatever a worker raised
        raise RunStopped(
            f"fine-tuning failed: {_root_cause(error)}. Running the same command again starts it anew."
        ) from error
    return dict(read_json(_metrics_path(spec)))


def _train_worker(config: dict[str, Any]) -> None:
    """What runs in each Ray Train worker."""
    spec: FinetuneSpec = config["spec"]
    if not spec.on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
        os.environ["OMP_NUM_THREADS"] = str(config["num_threads"])
    metrics = finetune(spec, None if spec.on_gpu else config["num_threads"])
    import ray.train

    if ray.train.get_context().get_world_rank() == 0:
        storage.write(_metrics_path(spec), encode(metrics))


def _metrics_path(spec: FinetuneSpec) -> str:
    return f"{spec.curve.removesuffix('.jsonl')}-end.json"


def train_scripted(spec: FinetuneSpec) -> tuple[dict[str, float], str]:
    """The scripted engine's fine-tuning: same inputs and outputs, in milliseconds."""
    from semievol_ray.engines import scripted

    metrics = scripted.finetune(read_examples(spec.examples), spec.out)
    return metrics | {k: float(v) for k, v in verify_adapter(spec.out).items()}, adapter_digest(spec.out)


@contextmanager
def _followed(path: str, on_line: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Hands the JSON lines another process appends to a file to `on_line`, from a thread, until the block ends."""
    ended = threading.Event()

    def follow() -> None:
        done = 0
        while True:
            last = ended.is_set()
            lines = json_lines(path) if storage.exists(path) else []
            for line in lines[done:]:
                on_line(line)
            done = len(lines)
            if last:
                return
            ended.wait(POLL_SECONDS)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=10)


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__


def _write_examples(
    item: dict[str, Any], step: Step, labeled: Step, accepted: tuple[Accepted, ...], weight: float
) -> dict[str, Any]:
    name = item["part"]
    if name.startswith("labeled-"):
        rows = labeled.read_part(name.removeprefix("labeled-"), schema.LABELED).to_pylist()
        examples = [{**row, "source": "gold", "weight": 1.0, "round": 0} for row in rows]
    else:
        of_round = next(a for a in accepted if name.startswith(f"round-{a.round:04d}-"))
        examples = _pseudo_labelled(of_round, name.removeprefix(f"round-{of_round.round:04d}-"), weight)
    step.commit_part(name, pa.Table.from_pylist(examples, schema=schema.EXAMPLES))
    return {"rows": len(examples)}


def _pseudo_labelled(accepted: Accepted, part: str, weight: float) -> list[dict[str, Any]]:
    rows = accepted.pool.read_part(part, schema.UNLABELED).to_pylist()
    selected = accepted.selection.read_part(part, schema.SELECTION).to_pylist()
    return [
        {**row, "answer": s["label"], "source": "pseudo", "weight": weight, "round": accepted.round}
        for row, s in zip(rows, selected, strict=True)
        if s["decision"] == Decision.ACCEPTED.value
    ]
