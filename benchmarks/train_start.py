"""What a fine-tuning costs before its first step, part by part, and what Ray Train adds around it.

Invariant: each measurement is a process of its own, so that nothing is imported or compiled already.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.train_arms import peak_mib

PARTS = ("imports", "examples", "model", "adapter", "DeepSpeed", "first step", "second step")


def measured(kind: str, folder: Path, *arguments: str, env: dict[str, str] | None = None) -> dict[str, float]:
    """What `python -m benchmarks.train_start kind ...` found. Raises RuntimeError with the end of its output."""
    command = [sys.executable, "-m", "benchmarks.train_start", kind, str(folder / "found.json"), *arguments]
    done = subprocess.run(command, env=os.environ | (env or {}), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring {kind} failed: {(done.stdout + done.stderr)[-2000:]}")
    found: dict[str, float] = json.loads((folder / "found.json").read_text())
    return found


def worker(spec_path: str) -> dict[str, float]:
    """Seconds of each part of a fine-tuning in one worker, and its peak of memory over what importing takes."""
    began, spent = time.perf_counter(), dict[str, float]()
    import pickle

    import deepspeed
    import torch
    from transformers import Trainer, TrainerCallback, trainer  # noqa: F401

    from semievol_ray.engines import finetune as module

    spec = pickle.loads(Path(spec_path).read_bytes())
    spent["imports"] = time.perf_counter() - began
    imported_mib = peak_mib()
    if int(os.environ["WORLD_SIZE"]) > 1:
        torch.distributed.init_process_group("gloo")  # as Ray Train does before its workers begin
    for name, owner, attribute in (
        ("examples", module, "tokenised"), ("model", module, "load_base"), ("adapter", module, "trainable"),
        ("DeepSpeed", deepspeed, "initialize"),
    ):  # fmt: skip
        setattr(owner, attribute, _timed(getattr(owner, attribute), name, spent))
    steps: list[float] = []

    class Steps(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            steps.append(time.perf_counter())

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            steps.append(time.perf_counter())

    trainer.DEFAULT_CALLBACKS.append(Steps)  # type: ignore[arg-type]
    module.finetune(spec)
    taken = [end - begin for begin, end in pairwise(steps)]
    spent |= {"first step": taken[0], "second step": taken[1], "all": time.perf_counter() - began}
    return spent | {"peak_mib": peak_mib(), "imported_mib": imported_mib}


def ray_train(log: str) -> dict[str, float]:
    """Seconds to start Ray here, and of Ray Train around a worker that does nothing."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from semievol_ray.stages.cluster import connected

    began = time.perf_counter()
    with connected(None, log):
        started = time.perf_counter()
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        TorchTrainer(
            lambda: None,
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(name="ray", storage_path=str(Path(log).parent.absolute())),
        ).fit()
        return {"Ray": started - began, "Ray Train": time.perf_counter() - started}


def _timed(function: Callable[..., Any], name: str, spent: dict[str, float]) -> Callable[..., Any]:
    def timed(*arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - began

    return timed


if __name__ == "__main__":
    work: dict[str, Callable[..., dict[str, float]]] = {"worker": worker, "ray": ray_train}
    Path(sys.argv[2]).write_text(json.dumps(work[sys.argv[1]](*sys.argv[3:])))
    sys.stdout.flush()
    os._exit(0)  # torch.distributed may wait for its peers at exit
