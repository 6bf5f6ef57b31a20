"""Fine-tunings on Ray Train whose workers are killed with -9 at random steps, against an undisturbed one.

`python -m benchmarks.kill_training --kills N --seed S [--quick] [--out FILE]`. Each fine-tuning of a tiny random model
loses a worker four times, at steps drawn from the seed; its adapter and losses are held against the undisturbed ones.
Recorded fine-tunings are skipped, so the command can go on.
"""

import argparse
import json
import logging
import math
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.chaos_processes import adopt_orphans, descendants, send, title
from benchmarks.environment import commit, environment
from benchmarks.kill_training_model import NUM_STEPS, spec_in, write_model
from semievol_ray.engines.finetune import FinetuneSpec
from semievol_ray.records import json_lines
from semievol_ray.stages.train import train

RESULTS = Path(__file__).parent / "results" / "kill-training-cpu.json"
WEIGHT_TOLERANCE, LOSS_TOLERANCE = 2e-5, 1e-5
"""Absolute, of a learned parameter; relative, of a step's loss: those of the equality matrix."""
WORKER = "RayTrainWorker"
LOOK_SECONDS = 0.01
KILLS_EACH = 4
"""Of one fine-tuning: what costs time is that a killed worker's successor loads the libraries again."""


@dataclass(frozen=True)
class Strike:
    """One fine-tuning and its kills: each time one of `steps` is in the loss curve, one of the workers is killed."""

    seed: int
    number: int
    workers: int
    zero_stage: int
    steps: tuple[int, ...]
    victims: tuple[int, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of it. at_steps: the last step in the curve at each kill; shorter where the end came first."""

    at_steps: tuple[int, ...]
    steps_again: int
    largest_weight_difference: float
    largest_loss_difference: float
    num_tensors: int
    num_zero_tensors: int
    seconds: float
    wrong: str = ""

    @property
    def is_good(self) -> bool:
        """Whether workers were killed, and what was learned is what the undisturbed fine-tuning learned."""
        near = self.largest_weight_difference <= WEIGHT_TOLERANCE and self.largest_loss_difference <= LOSS_TOLERANCE
        return near and bool(self.at_steps) and self.num_tensors > 0 and not (self.num_zero_tensors or self.wrong)


def strike_of(seed: int, number: int) -> Strike:
    """The strikes of a fine-tuning, always the same for a seed: one in each of KILLS_EACH stretches of its steps."""
    drawn = random.Random(f"{seed}/{number}")
    workers, stretch = drawn.choice((1, 2)), (NUM_STEPS - 2) // KILLS_EACH
    steps = tuple(drawn.randrange(1 + stretch * i, 1 + stretch * (i + 1)) for i in range(KILLS_EACH))
    return Strike(seed, number, workers, drawn.randrange(4), steps, tuple(drawn.randrange(workers) for _ in steps))


def undisturbed(folder: Path, model: Path) -> FinetuneSpec:
    """A fine-tuning on one worker that nobody touches."""
    spec = spec_in(folder, model, workers=1, zero_stage=2)
    _trained(spec)
    return spec


def struck(strike: Strike, folder: Path, model: Path, calm: FinetuneSpec) -> Outcome:
    """Do one fine-tuning and its strike."""
    spec, began = spec_in(folder, model, workers=strike.workers, zero_stage=strike.zero_stage), time.monotonic()
    met: list[int] = []
    over = threading.Event()
    striker = threading.Thread(target=_strike, args=(strike, spec, met, over), daemon=True)
    striker.start()
    wrong = ""
    try:
        _trained(spec)
    except Exception as error:  # recorded, whatever it is
        wrong = f"{type(error).__name__}: {error}"[:300]
    over.set()
    striker.join()
    seconds = round(time.monotonic() - began, 1)
    if wrong:
        return Outcome(tuple(met), 0, math.inf, math.inf, 0, 0, seconds, wrong)
    return Outcome(tuple(met), len(json_lines(spec.curve)) - NUM_STEPS, *_differences(spec, calm), seconds)


def _strike(strike: Strike, spec: FinetuneSpec, met: list[int], over: threading.Event) -> None:
    left = list(zip(strike.steps, strike.victims, strict=True))
    while left and not over.wait(LOOK_SECONDS):
        at = max((line["step"] for line in json_lines(spec.curve)), default=0)
        workers = sorted(pid for pid in descendants(os.getpid()) if WORKER in title(pid)) if at >= left[0][0] else []
        if workers:
            _, victim = left.pop(0)
            if send([workers[victim % len(workers)]], signal.SIGKILL):
                met.append(at)


def _trained(spec: FinetuneSpec) -> None:
    train(spec, spec.speed.num_train_workers, 1.0, 0.0, lambda _: None, lambda _: None)


def _differences(found: FinetuneSpec, calm: FinetuneSpec) -> tuple[float, float, int, int]:
    """The largest difference of a weight and, relative, of a step's loss; tensors, and those that are all zero."""
    from safetensors.numpy import load_file

    one, other = (load_file(f"{spec.out}/adapter_model.safetensors") for spec in (found, calm))
    if one.keys() != other.keys():
        return math.inf, math.inf, len(one), 0
    weights = max(float(abs(one[name] - other[name]).max()) for name in one)
    mine, theirs = _losses(found), _losses(calm)
    if mine.keys() != theirs.keys():
        return weights, math.inf, len(one), 0
    losses = max(abs(mine[step] - theirs[step]) / abs(theirs[step]) for step in theirs)
    return weights, losses, len(one), sum(not tensor.any() for tensor in one.values())


def _losses(spec: FinetuneSpec) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in json_lines(spec.curve)}


def metrics(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What the kills of one commit come to."""
    return {
        "kills": sum(len(run["at_steps"]) for run in runs),
        "fine-tunings": len(runs),
        "wrong ends": sum(bool(run["wrong"]) for run in runs),
        "empty or zero adapters": sum(not run["num_tensors"] or run["num_zero_tensors"] > 0 for run in runs),
        "adapters beyond the tolerance": sum(run["largest_weight_difference"] > WEIGHT_TOLERANCE for run in runs),
        "loss curves beyond the tolerance": sum(run["largest_loss_difference"] > LOSS_TOLERANCE for run in runs),
        "largest difference of a weight": max(run["largest_weight_difference"] for run in runs),
        "largest relative difference of a loss": max(run["largest_loss_difference"] for run in runs),
        "steps done again, mean": statistics.mean(run["steps_again"] for run in runs),
        "median seconds": statistics.median(run["seconds"] for run in runs),
    }


def write(path: Path, command: str, runs: Sequence[Mapping[str, Any]]) -> None:
    """Replace the results file: figures of the last commit's runs, and every run on a line of its own."""
    measured = metrics([run for run in runs if run["commit"] == runs[-1]["commit"]])
    aims = {
        **dict.fromkeys(("wrong ends", "empty or zero adapters"), 0),
        **dict.fromkeys(("adapters beyond the tolerance", "loss curves beyond the tolerance"), 0),
    }
    head = {
        "bench": "kill_training",
        "command": command,
        "commit": runs[-1]["commit"],
        "environment": environment(),
        "repeats": int(measured["fine-tunings"]),
        "metrics": measured,
        "targets": {
            name: {"target": aim, "value": measured[name], "met": measured[name] == aim} for name, aim in aims.items()
        },
    }
    lines = ",\n".join("  " + json.dumps(run) for run in runs)
    path.write_text(
        json.dumps(head, indent=1).removesuffix("\n}") + f',\n "runs": [\n{lines}\n ]\n}}\n', encoding="utf-8"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the kills that are not recorded yet; 0 when what was learned was always what it should be."""
    options = _options(arguments)
    adopt_orphans()
    out = options.out or (None if options.quick else RESULTS)
    runs = json.loads(out.read_text(encoding="utf-8"))["runs"] if out and out.exists() else []
    here = commit()
    done = {(run["seed"], run["number"]) for run in runs if run["commit"] == here}
    wanted = [
        strike_of(options.seed, number) for number in range(1 if options.quick else -(-options.kills // KILLS_EACH))
    ]
    left = [strike for strike in wanted if (strike.seed, strike.number) not in done]
    command = f"python -m benchmarks.kill_training --kills {options.kills} --seed {options.seed}"
    if left:
        import ray

        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    num_wrong = 0
    with tempfile.TemporaryDirectory(prefix="kill-training-") as work:
        folder = Path(work)
        model = write_model(folder / "model")
        calm = undisturbed(folder / "calm", model) if left else None
        for strike in left:
            assert calm is not None
            outcome = struck(strike, folder / f"{strike.seed}-{strike.number}", model, calm)
            num_wrong += not outcome.is_good
            runs.append({"commit": here, **asdict(strike), **asdict(outcome)})
            print(strike, outcome, "good" if outcome.is_good else "WRONG", flush=True)
            if out:
                write(out, command, runs)
    for name, value in metrics([run for run in runs if run["commit"] == here]).items():
        print(f"{name:<40} {value:g}")
    return int(num_wrong > 0)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kill_training", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--kills", type=int, default=20, help="how many kills of this seed there shall be (default: 20)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the schedule (default: 0)")
    parser.add_argument("--quick", action="store_true", help="one fine-tuning, recorded nowhere")
    parser.add_argument("--out", type=Path, help="results file to add to (default: the committed one)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
