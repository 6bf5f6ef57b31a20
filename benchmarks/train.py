"""What fine-tuning costs: tokens a second beside a bare loop and transformers' Trainer, start-up, memory by stage.

`python -m benchmarks.train [--quick] [--model NAME|dummy:8B] [--steps N] [--repeats N] [--only LETTERS] [--note TEXT]
[--out FILE]`: t tokens a second; s start-up by part; z memory by stage; g a GPU's whole: LoRA, and full with ZeRO-3.
"""

import argparse
import os
import pickle
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from benchmarks import train_data
from benchmarks.found import Found
from benchmarks.train_arms import BARE, PACKED, PADDED, TRAINER, arm
from benchmarks.train_gpu import against_estimator, reckoned_mib
from benchmarks.train_memory import peaks_mib
from benchmarks.train_start import PARTS, measured
from benchmarks.train_turns import Arm, ratios, spread, take_turns
from semievol_ray.config import SpeedConfig, TrainConfig
from semievol_ray.engines.batches import in_order
from semievol_ray.engines.finetune import FinetuneSpec, read_examples, tokenised
from semievol_ray.engines.rendering import load_tokenizer

BATCH, QUICK_BATCH = 8, 2
LEAST_SHARE, PACKED_GAIN = 0.95, 1.5
NUM_WORKERS = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for, print the table, write the result file."""
    options = _options(arguments)
    found, folder = Found(), Path(tempfile.mkdtemp(prefix="train-"))
    measures = {"t": _throughput, "s": _start, "z": _memory, "g": _gpu}
    try:
        model = train_data.model_folder(options.model, folder)
        for letter in options.only:
            measures[letter](found, folder, model, options)
            print("\n".join(found.lines()), "\n", flush=True)
            _keep(found, options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _throughput(found: Found, folder: Path, model: str, options: argparse.Namespace) -> None:
    """Steps of all arms in turn; every repeat is new processes."""
    runs: list[Mapping[str, Arm]] = []
    for repeat in range(options.repeats):
        here = folder / f"turns-{repeat}"
        padded = _spec(here / "padded", model, options, seed=repeat)
        packed = replace(
            _spec(here / "packed", model, options, seed=repeat), speed=SpeedConfig(zero_stage=2, packing=True)
        )
        specs = {PADDED: padded, PACKED: packed, BARE: padded, TRAINER: padded}
        runs.append(take_turns(arm, specs, options.threads, here))
        tokens = _step_tokens(padded)
        for name, one in runs[-1].items():
            rate = sum(tokens[1 : len(one.seconds)]) / sum(one.seconds[1:])
            found.metrics[f"tokens a second, {name}, repeat {repeat + 1}"] = rate
        _compared(found, runs)
        _keep(found, options)  # what is measured stays, whatever ends the next repeat


def _compared(found: Found, runs: Sequence[Mapping[str, Arm]]) -> None:
    """The arms of all repeats so far against each other."""
    for name in runs[0]:
        rates = [found.metrics[f"tokens a second, {name}, repeat {i + 1}"] for i in range(len(runs))]
        found.metrics[f"tokens a second, {name}"] = statistics.median(rates)
        spent = [seconds for run in runs for seconds in run[name].cpu_seconds[1:]]
        found.metrics[f"processor seconds a step, {name}"] = statistics.median(spent)
        found.metrics[f"peak MiB, {name}"] = max(run[name].peak_mib for run in runs)
        apart = [_apart(run[name].losses, run[BARE].losses) for run in runs]
        found.metrics[f"largest difference of a step's loss from the bare loop, {name}"] = max(apart)
    better = max((BARE, TRAINER), key=lambda name: found.metrics[f"tokens a second, {name}"])
    for of, to in ((PADDED, BARE), (PADDED, TRAINER), (PACKED, PADDED)):
        middle, low, high = spread([r for run in runs for r in ratios(run[of].seconds, run[to].seconds)])
        name = f"speed of {of} to {to}, step by step"
        found.metrics |= {name: middle, f"{name}, lower quartile": low, f"{name}, upper quartile": high}
        spent = [r for run in runs for r in ratios(run[of].cpu_seconds, run[to].cpu_seconds)]
        found.metrics[f"speed of {of} to {to}, by processor time"] = spread(spent)[0]
    found.at_least(
        f"{PADDED} to the better of the two ({better})",
        LEAST_SHARE,
        found.metrics[f"speed of {PADDED} to {better}, step by step"],
    )
    if _on_gpu():
        found.at_least("packed to padded", PACKED_GAIN, found.metrics[f"speed of {PACKED} to {PADDED}, step by step"])


def _start(found: Found, folder: Path, model: str, options: argparse.Namespace) -> None:
    """The start of a worker by part, and of Ray and Ray Train around it."""
    runs = []
    for repeat in range(options.repeats):
        here = folder / f"start-{repeat}"
        spec = _spec(here, model, options, max_steps=3)
        (here / "spec.pickle").write_bytes(pickle.dumps(spec))
        env = _alone(options.threads)
        runs.append(
            measured("worker", here, str(here / "spec.pickle"), env=env) | measured("ray", here, str(here / "ray.log"))
        )
    for part in ("Ray", "Ray Train", *PARTS):
        found.metrics[f"start, {part} seconds"] = statistics.median(run[part] for run in runs)
    before = [sum(run[part] for part in ("Ray Train", *PARTS[:-2])) for run in runs]
    found.metrics["start, all before the first step but Ray, seconds"] = statistics.median(before)


def _memory(found: Found, folder: Path, model: str, options: argparse.Namespace) -> None:
    """Two workers on the CPU, one example each at a time."""
    env = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    methods: tuple[Literal["lora", "full"], ...] = ("full",) if options.quick else ("lora", "full")
    for method in methods:
        for stage in (0, 3) if options.quick else (0, 1, 2, 3):
            here = folder / f"memory-{method}-{stage}"
            speed = SpeedConfig(zero_stage=stage, num_train_workers=NUM_WORKERS)
            spec = replace(_spec(here, model, options, max_steps=2, batch=NUM_WORKERS, method=method), speed=speed)
            peak, imported = peaks_mib(spec, NUM_WORKERS, here / "workers", env)
            name = f"memory of each of {NUM_WORKERS} workers, {method}, ZeRO-{stage}"
            found.metrics[f"{name}, peak MiB over the imports"] = peak - imported
            if reckoned := reckoned_mib(spec):
                found.metrics[f"{name}, reckoned MiB"] = reckoned


def _gpu(found: Found, folder: Path, model: str, options: argparse.Namespace) -> None:
    """LoRA, and all weights with ZeRO-3 and offload, on one GPU: speed, MFU, memory beside DeepSpeed's estimator."""
    if not _on_gpu():
        print("no GPU here: part g is left out")
        return
    lora = _spec(folder / "gpu-lora", model, options)
    full = _spec(folder / "gpu-full", model, options, method="full")
    full = replace(full, speed=SpeedConfig(zero_stage=3, offload="all", gradient_checkpointing=True))
    for name, spec in {"LoRA": lora, "full, ZeRO-3 with offload": full}.items():
        done = take_turns(arm, {PADDED: spec}, options.threads, Path(spec.out).parent)[PADDED]
        rate = sum(_step_tokens(spec)[1 : len(done.seconds)]) / sum(done.seconds[1:])
        found.metrics |= {f"GPU, {name}, {key}": value for key, value in against_estimator(spec, rate, done.gpu_bytes)}


def _spec(
    folder: Path, model: str, options: argparse.Namespace, *, seed: int = 0, max_steps: int | None = None,
    batch: int | None = None, method: Literal["lora", "full"] = "lora",
) -> FinetuneSpec:  # fmt: skip
    """A fine-tuning in a new folder, with as many rows as its steps take; the first step and the last do not count."""
    steps, batch = max_steps or options.steps + 2, batch or (QUICK_BATCH if options.quick else BATCH)
    folder.mkdir(parents=True, exist_ok=True)
    train_data.write_examples(str(folder / "examples.parquet"), steps * batch, seed)
    return FinetuneSpec(
        model_path=model,
        examples=(str(folder / "examples.parquet"),),
        task=train_data.TASK,
        train=TrainConfig(train_batch_size=batch, max_steps=steps, method=method),
        speed=SpeedConfig(zero_stage=2),
        dtype="bfloat16" if _on_gpu() else "float32",
        max_model_len=2048,
        template_date="2024-07-26",
        seed=seed,
        on_gpu=_on_gpu(),
        out=str(folder / "out"),
        curve=str(folder / "curve.jsonl"),
    )


def _step_tokens(spec: FinetuneSpec) -> list[int]:
    """Tokens of the examples of each step; padding is none."""
    examples = tokenised(read_examples(spec.examples), spec, load_tokenizer(spec.model_path))
    ordered, batch = in_order(examples, spec.train, spec.seed), spec.train.train_batch_size
    return [sum(len(e.ids) for e in ordered[at : at + batch]) for at in range(0, len(ordered), batch)]


def _apart(losses: Sequence[float], others: Sequence[float]) -> float:
    """The largest relative difference of two curves, step by step."""
    return max(abs(a - b) / abs(b) for a, b in zip(losses, others, strict=True))


def _alone(threads: int) -> dict[str, str]:
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
    return ranks | {"OMP_NUM_THREADS": str(threads)} | ({} if _on_gpu() else {"DS_ACCELERATOR": "cpu"})


def _on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _keep(found: Found, options: argparse.Namespace) -> None:
    size = "--quick" if options.quick else f"--steps {options.steps} --repeats {options.repeats}"
    command = f"python -m benchmarks.train {size} --only {options.only} --model {options.model}"
    repeats = sum(name.startswith(f"tokens a second, {PADDED}, repeat") for name in found.metrics)
    found.keep(options.out, "train", command, repeats, note=options.note)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the same on less, within two minutes on 2 cores")
    parser.add_argument("--model", default=train_data.PACKAGED, help="packaged name, folder, hub name, or dummy:8B")
    parser.add_argument("--steps", type=int, help="steps that count of each arm in a repeat (default: 10)")
    parser.add_argument("--repeats", type=int, help="how often all is measured anew (default: 3)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of an arm (default: cores)")
    parser.add_argument("--only", default="tszg", help="t tokens, s start, z stages, g GPU (default: all)")
    parser.add_argument("--note", help="a sentence about the machine that goes into the result file")
    parser.add_argument("--out", help="write the figures to this file as JSON")
    options = parser.parse_args(arguments)
    options.steps = options.steps or (2 if options.quick else 10)
    options.repeats = options.repeats or (1 if options.quick else 3)
    return options


if __name__ == "__main__":
    sys.exit(main())
