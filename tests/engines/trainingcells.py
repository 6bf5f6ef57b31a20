"""Fine-tunings of the tiny Llama in processes of their own, and the same learning as a plain loop of PyTorch.

Invariant: the loop shares the order of the examples, and where the adapter begins, with what it judges; nothing else.
"""

import json
import math
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from semievol_ray import schema, storage
from semievol_ray.config import SpeedConfig, TrainConfig
from semievol_ray.core.answers import Labels
from semievol_ray.engines.batches import in_order
from semievol_ray.engines.finetune import FinetuneSpec, read_examples, tokenised, write_tokens
from semievol_ray.engines.rendering import load_tokenizer
from semievol_ray.engines.reopening import logit_shift
from semievol_ray.engines.trainable import trainable
from semievol_ray.tasks import Task

TASK = Task("kinds", "Say what kind of thing is described.", Labels(("plant", "animal", "food")), max_tokens=12)
TIMEOUT_SECONDS = 280
WORKERS = """
import os, pickle, sys, traceback
from pathlib import Path
import deepspeed, peft, torch, transformers, pyarrow.parquet
from semievol_ray.engines.finetune import Surroundings, finetune
from semievol_ray.engines.keeping import MachineLeavesError

def work(specs, last):
    try:
        torch.distributed.init_process_group("gloo")  # as Ray Train does
        for spec in specs:
            asked = []
            try:
                finetune(spec, Surroundings(is_machine_leaving=lambda: asked.append(1) or len(asked) == last))
            except MachineLeavesError:
                print("left", spec.out, flush=True)
    except BaseException:
        traceback.print_exc()
        os._exit(3)
    os._exit(0)

for specs, num_workers, last, port in pickle.loads(Path(sys.argv[1]).read_bytes()):
    os.environ |= {"WORLD_SIZE": str(num_workers), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = []
    for rank in range(num_workers):
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        children.append(os.fork())
        if not children[-1]:
            work(specs, last)
    if worst := max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children):
        sys.exit(worst)
"""
"""The libraries are loaded once, then a process for each worker of each leg is forked off."""


@dataclass(frozen=True)
class Leg:
    """Fine-tunings, one after another, on a number of workers; each leaves after `num_steps`, or ends when None."""

    specs: Sequence[FinetuneSpec]
    num_workers: int
    num_steps: int | None = None


def rows(num: int) -> list[dict[str, Any]]:
    """Examples of different lengths, a third of them with a smaller weight."""
    words = ("green", "tall", "wild", "round", "small")
    questions = [f"a {' '.join(words[: 1 + i % 5])} thing that grows in the garden {i}" for i in range(num)]
    shared = {"options": None, "group": None, "source": "gold", "round": 0}
    return [
        {
            "id": f"row-{i}",
            "question": q,
            "answer": TASK.format.labels[i % 3],
            "weight": 0.25 if i % 3 else 1.0,
            **shared,
        }  # type: ignore[union-attr]
        for i, q in enumerate(questions)
    ]


def spec_in(
    folder: Path, model: Path, train: TrainConfig, speed: SpeedConfig, num_rows: int = 10, **changed: Any
) -> FinetuneSpec:
    """A fine-tuning whose files lie in `folder`, its examples written there."""
    folder.mkdir(parents=True)
    path = str(folder / "examples.parquet")
    storage.create_table(path, pa.Table.from_pylist(rows(num_rows), schema=schema.EXAMPLES))
    given: dict[str, Any] = {
        "model_path": str(model), "examples": (path,), "task": TASK, "train": train, "speed": speed,
        "dtype": "float32", "max_model_len": 256, "template_date": "2024-07-26", "seed": 3, "on_gpu": False,
        "out": str(folder / "out"), "curve": str(folder / "curve.jsonl"),
        "logits": str(folder / "logits.safetensors"), **changed,
    }  # fmt: skip
    return FinetuneSpec(**given)


def tokenised_ahead(spec: FinetuneSpec) -> FinetuneSpec:
    """The same with its examples tokenised in a file, as a run has them."""
    path = spec.curve.replace("curve.jsonl", "tokens/tokens.arrow")
    write_tokens(spec, spec.examples, path)
    return replace(spec, tokens=(path,))


def run_workers(specs: Sequence[FinetuneSpec], num_workers: int, folder: Path) -> str | None:
    """Do fine-tunings one after another in `num_workers` processes; the end of their errors where one failed."""
    return run_legs([Leg(specs, num_workers)], folder)


def run_legs(legs: Sequence[Leg], folder: Path) -> str | None:
    """Do one leg after another; the end of the errors where one failed."""
    file, errors = folder / "legs.pickle", folder / "errors"
    ports = _free_ports(len(legs))
    file.write_bytes(pickle.dumps([(g.specs, g.num_workers, g.num_steps, p) for g, p in zip(legs, ports, strict=True)]))
    env = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    with errors.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", WORKERS, str(file)], env=env, stdout=log, stderr=log, start_new_session=True
        )
        try:
            code = process.wait(TIMEOUT_SECONDS)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return errors.read_text()[-3000:] if code else None


def _free_ports(num: int) -> list[int]:
    probes = [socket.socket() for _ in range(num)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    found = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return found


def shift(spec: FinetuneSpec) -> float:
    """How far the logits of what was saved are from those of the process that learned it."""
    given = (spec.logits, spec.model_path, spec.out, spec.train, spec.dtype)
    return logit_shift(*given, on_gpu=False, packs_on_gpu=False)


def losses(spec: FinetuneSpec) -> list[float]:
    return [json.loads(line)["loss"] for line in storage.lines(spec.curve)]


def plain_loop(spec: FinetuneSpec) -> tuple[list[float], dict[str, Any]]:
    """Losses of the steps and the learned parameters, each example alone in its forward pass, on AdamW."""
    import torch
    from transformers import AutoModelForCausalLM, set_seed

    base = AutoModelForCausalLM.from_pretrained(spec.model_path, dtype=torch.float32)
    set_seed(spec.seed)
    model, train = trainable(base, spec.train), spec.train
    examples = tokenised(read_examples(spec.examples), spec, load_tokenizer(spec.model_path))
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(learned.values(), lr=train.learning_rate, weight_decay=train.weight_decay)
    order, batch = in_order(examples, train, spec.seed), train.train_batch_size
    steps = [[e for e in order[i : i + batch] if e.num_answer] for i in range(0, len(order), batch)]
    warm_up, curve = math.ceil(len(steps) * train.warmup_ratio), []
    for number, step in enumerate(steps):
        done = (number - warm_up) / max(1, len(steps) - warm_up)
        factor = number / max(1, warm_up) if number < warm_up else 0.5 * (1 + math.cos(math.pi * done))
        optimizer.param_groups[0]["lr"] = train.learning_rate * factor
        total = sum(example.weight * _nll(model, example) for example in step)
        loss = total / sum(example.num_answer for example in step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned.values(), train.max_grad_norm)
        optimizer.step()
        curve.append(float(loss.detach()))
    return curve, {name: p.detach() for name, p in learned.items()}


def _nll(model: Any, example: Any) -> Any:
    """-log P of the answer's tokens, summed."""
    import torch

    logits_TV = model(input_ids=torch.tensor([example.ids])).logits[0]
    start = len(example.ids) - example.num_answer
    told_KV = torch.log_softmax(logits_TV[start - 1 : -1], -1)
    return -told_KV.gather(1, torch.tensor(example.ids[start:])[:, None]).sum()


def saved(spec: FinetuneSpec) -> dict[str, Any]:
    """What a fine-tuning saved, by the names that the plain loop uses."""
    from safetensors.torch import load_file

    if spec.train.method == "full":
        return load_file(f"{spec.out}/model.safetensors")
    tensors = load_file(f"{spec.out}/adapter_model.safetensors")
    return {f"{name.removesuffix('.weight')}.default.weight": tensor for name, tensor in tensors.items()}
