"""The demo: the whole method on a real small model and real text, for several seeds, and one table at the end.

`python -m benchmarks.demo [--seeds 0,1,2] [--runs FOLDER] [--out FILE] [-o key=value]`; running it again continues.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environment import commit, environment
from semievol_ray import configfile, driver, tables
from semievol_ray.core.metrics import Interval, bootstrap_interval, paired_difference
from semievol_ray.errors import SemievolError
from semievol_ray.runs import Step, read_steps
from semievol_ray.stages.cluster import connected
from semievol_ray.stages.evaluate import asked, correctness
from semievol_ray.summary import LABELS_ONLY, SEMIEVOL, UNTOUCHED, Summary, summarise

CONFIG = Path(__file__).parent / "configs" / "wordnet.yaml"
EVALUATIONS = {UNTOUCHED: "base/evaluate", LABELS_ONLY: "rounds/0000/evaluate", SEMIEVOL: "rounds/0001/evaluate"}


@dataclass(frozen=True)
class Pooled:
    """The test rows of all seeds, one seed after the other: which each model has right, and what each row asks."""

    right: "Mapping[str, np.ndarray[Any, Any]]"
    questions: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every seed, print the table, write the result file where one is asked for."""
    options = _options(arguments)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    try:
        Path(options.runs).mkdir(parents=True, exist_ok=True)
        with connected(None, f"{options.runs}/ray.log"):  # one Ray for all seeds
            seconds = {seed: _run(seed, f"{options.runs}/seed-{seed}", options.override) for seed in seeds}
    except SemievolError as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("demo: stopped; the same command continues", file=sys.stderr)
        return 130
    found = {seed: summarise(f"{options.runs}/seed-{seed}") for seed in seeds}
    pooled = _pooled(found)
    print(render(found, pooled, seconds))
    if options.out:
        Path(options.out).write_text(json.dumps(result(found, pooled, seconds), indent=1) + "\n", encoding="utf-8")
    return 0


def render(found: Mapping[int, Summary], pooled: Pooled, seconds: Mapping[int, float]) -> str:
    """The table of all seeds: accuracies, the pooled gain, pseudo-labels, seconds per step, where the runs lie."""
    accuracy_rows = [
        (model, *(_of(summary, model) for summary in found.values()), _shown(_accuracy(pooled, model)))
        for model in EVALUATIONS
    ]
    header = ("accuracy", *(f"seed {seed}" for seed in found), "pooled")
    labels = [(s, p) for s, summary in found.items() for p in summary.pseudo_labels]
    label_rows = [
        (
            f"seed {s}",
            tables.percent(p.precision_before),
            tables.percent(p.precision_after),
            f"{p.num_accepted} of {p.num_rows}",
        )
        for s, p in labels
    ]
    steps = list(next(iter(found.values())).seconds)
    time_rows = [(step, *(tables.seconds(s.seconds.get(step, 0.0)) for s in found.values())) for step in steps]
    time_rows.append(("this command", *(tables.seconds(seconds[seed]) for seed in found)))
    gain = gain_of(pooled)
    return "\n\n".join(
        [
            tables.table(header, accuracy_rows) + f"\n{_gain_sentence(gain, found)}",
            tables.table(("pseudo-labels", "precision of all", "of the accepted", "accepted"), label_rows),
            tables.table(("seconds", *(f"seed {seed}" for seed in found)), time_rows),
            "\n".join(f"run: {summary.root}" for summary in found.values()),
        ]
    )


def result(found: Mapping[int, Summary], pooled: Pooled, seconds: Mapping[int, float]) -> dict[str, Any]:
    """The result file: every figure of the table, with the environment it was measured in."""
    gain = gain_of(pooled)
    metrics: dict[str, float] = {
        "gain_points": 100 * gain.value, "gain_points_low": 100 * gain.low, "gain_points_high": 100 * gain.high
    }  # fmt: skip
    for model, correct in pooled.right.items():
        metrics[f"accuracy {model}"] = float(correct.mean())
    for seed, summary in found.items():
        metrics |= {f"accuracy {a.model} seed {seed}": a.accuracy.value for a in summary.accuracies}
        metrics[f"precision_all seed {seed}"] = summary.pseudo_labels[0].precision_before or 0.0
        metrics[f"precision_accepted seed {seed}"] = summary.pseudo_labels[0].precision_after or 0.0
        metrics[f"seconds seed {seed}"] = seconds[seed]
    total = sum(seconds.values())
    return {
        "bench": "demo",
        "command": "python -m benchmarks.demo --seeds " + ",".join(map(str, found)),
        "commit": commit(),
        "environment": environment(),
        "repeats": len(found),
        "metrics": metrics | {"seconds": total, "seconds_median": statistics.median(seconds.values())},
        "targets": {"seconds": {"target": 900.0, "value": total, "met": total <= 900.0}},
    }


def gain_of(pooled: Pooled) -> Interval:
    """accuracy(SemiEvol) - accuracy(labels only), paired over the test rows of all seeds."""
    return paired_difference(pooled.right[SEMIEVOL], pooled.right[LABELS_ONLY], pooled.questions)


def _run(seed: int, root: str, overrides: Sequence[str]) -> float:
    config = configfile.load(str(CONFIG), [f"seed={seed}", f"name=wordnet-{seed}", *overrides])
    print(f"seed {seed}: {root}", file=sys.stderr, flush=True)
    began = time.monotonic()
    driver.run(config, root)
    return time.monotonic() - began


def _pooled(found: Mapping[int, Summary]) -> Pooled:
    def steps(name: str) -> list[Step]:
        records = {s.root: dict(read_steps(s.root))[name] for s in found.values()}
        return [Step(f"{root}/{name}", name, tuple(record["parts"])) for root, record in records.items()]

    right = {model: np.concatenate([*map(correctness, steps(name))]) for model, name in EVALUATIONS.items()}
    return Pooled(right, tuple(question for step in steps(EVALUATIONS[SEMIEVOL]) for question in asked(step)))


def _accuracy(pooled: Pooled, model: str) -> Interval:
    correct = pooled.right[model]
    return Interval(float(correct.mean()), *bootstrap_interval(correct, pooled.questions))


def _of(summary: Summary, model: str) -> str:
    return _shown(next(a.accuracy for a in summary.accuracies if a.model == model))


def _shown(accuracy: Interval) -> str:
    value, low, high = (100 * v for v in (accuracy.value, accuracy.low, accuracy.high))
    return f"{value:.1f} [{low:.0f}, {high:.0f}]"


def _gain_sentence(gain: Interval, found: Mapping[int, Summary]) -> str:
    value, low, high = (100 * v for v in (gain.value, gain.low, gain.high))
    note = ", which includes 0" if low <= 0 <= high else ""
    return (
        f"percent, with 95% intervals. SemiEvol - labels only, pooled over {len(found)} seeds:\n"
        f"{value:+.1f} points, paired 95% interval {low:+.1f} to {high:+.1f}{note}"
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.demo", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated (default: 0,1,2)")
    parser.add_argument("--runs", default="runs/demo", help="folder of the run directories (default: runs/demo)")
    parser.add_argument("--out", help="write the figures to this file as JSON")
    parser.add_argument(
        "-o", dest="override", action="append", default=[], metavar="key=value", help="override a setting"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
