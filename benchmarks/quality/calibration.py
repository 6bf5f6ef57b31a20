"""Does calibrated selection keep its promise? Simulated pools whose right answers are known, thousands of times over.

`python -m benchmarks.quality.calibration [--quick] [--out FILE]`. A repetition draws a pool and a slice, lets the
slice choose the threshold, and counts the wrong rows among what the pool then accepts. It prints three shares:
`held`, repetitions whose accepted rows are right as often as the target (accepting none holds it); `error`, the mean
share of wrong rows (none where none is accepted); and `kept`, the share of the pool that is accepted, beside `best`,
that of the largest threshold which is precise enough, chosen with the right answers of the pool itself.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.environment import commit, environment
from semievol_ray import tables
from semievol_ray.core.calibration import candidate_taus, fdr_threshold, precision_bound, precision_lower_bound

LEVEL = 0.95
NUM_POOL = 10_000
NUM_THRESHOLDS = 20
FOLDS = (100, 300, 1000, 2000)
TARGETS = (0.9, 0.95)
SEED = 20_261


@dataclass(frozen=True)
class Model:
    """How often a row is right, from the logit u of its answer's probability.

    P(right) = low + (high - low) sigmoid(slope (u - middle)): at most `high` however sure the model is.
    """

    low: float
    high: float
    slope: float
    middle: float


@dataclass(frozen=True)
class Outcome:
    """What a threshold came to in one repetition; no error where nothing is accepted."""

    accepted: float
    error: float


@dataclass(frozen=True)
class Repetition:
    """Both rules' outcomes on one pool and slice; `best` is the share that gold would have accepted."""

    bound: Outcome
    fdr: Outcome
    best: float


@dataclass(frozen=True)
class Setting:
    """One line of the table."""

    pool: str
    target: float
    num_dev: int

    def __str__(self) -> str:
        return f"{self.pool} {self.target} {self.num_dev}"


@dataclass(frozen=True)
class Figures:
    """A line's figures in the table's order; `held_if` is None where no repetition certifies a threshold."""

    best: float
    held: float
    held_low: float
    certified: float
    held_if: float | None
    kept: float
    fdr_error: float
    fdr_kept: float


POOLS = {  # 88, 67, 45 and 89% right
    "easier": Model(0.2, 0.99, 0.5, 0.5),
    "standard": Model(0.1, 0.98, 0.4, 4.5),
    "harder": Model(0.1, 0.96, 0.4, 8.5),
    "flat": Model(0.89, 0.89, 0.0, 0.0),  # H says nothing, and a target of 90% is just out of reach
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate every setting, print the table, write the result file where one is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.calibration", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--quick", action="store_true", help="100 repetitions in place of 1,000")
    parser.add_argument("--out", help="write the figures to this file as JSON")
    options = parser.parse_args(arguments)
    num_repetitions, began = 100 if options.quick else 1000, time.monotonic()
    found = {
        setting: list(repetitions)
        for pool in POOLS
        for target in TARGETS
        for setting, repetitions in simulate(pool, target, FOLDS, num_repetitions).items()
    }
    print(render(found))
    if options.out:
        record = result(found, num_repetitions, options.quick, time.monotonic() - began)
        Path(options.out).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


def draw(generator: np.random.Generator, num_rows: int, model: Model) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(H, right) of rows: half of the H below 0.001, with the steps and ties that float32 log-probabilities have."""
    logits = 7.0 + 5.0 * generator.standard_normal(num_rows)
    confidences = np.round(np.log1p(np.exp(-logits)) * 2**23) / 2**23
    chance = model.low + (model.high - model.low) / (1 + np.exp(-model.slope * (logits - model.middle)))
    return confidences.astype(np.float32), generator.random(num_rows) < chance


def simulate(
    pool: str, target: float, folds: Sequence[int], num_repetitions: int, seed: int = SEED
) -> dict[Setting, list[Repetition]]:
    """Every repetition of one pool and target; the folds of a repetition are the beginnings of one slice."""
    found: dict[Setting, list[Repetition]] = {Setting(pool, target, num_dev): [] for num_dev in folds}
    for repetition in range(num_repetitions):
        generator = np.random.default_rng((seed, list(POOLS).index(pool), repetition))
        pool_rows = _sorted(*draw(generator, NUM_POOL, POOLS[pool]))
        confidences_D, correct_D = draw(generator, max(folds), POOLS[pool])
        for setting, outcomes in found.items():
            n = setting.num_dev
            outcomes.append(_repetition(pool_rows, confidences_D[:n], correct_D[:n], target))
    return found


def render(found: Mapping[Setting, Sequence[Repetition]]) -> str:
    """The table, a line per setting, within 80 columns."""
    header = ("pool", "aim", "slice", "best", "held", "low", "some", "if so", "kept", "fdr", "kept")
    lines = [
        (s.pool, f"{s.target}", tables.count(s.num_dev), *map(tables.percent, astuple(_figures(s, repetitions))))
        for s, repetitions in found.items()
    ]
    return tables.table(header, lines) + (
        "\n\nheld to kept: precision_bound. low: 95% lower bound of held. some: repetitions"
        "\nthat certify a threshold; if so: held among those, which is not promised."
        "\nfdr: the mean error, promised to be at most 1 - target over slices and pools."
    )


def result(
    found: Mapping[Setting, Sequence[Repetition]], num_repetitions: int, quick: bool, seconds: float
) -> dict[str, Any]:
    """The result file, with what each promise asks.

    precision_bound: the 95% lower bound of the share of repetitions that hold the target is at least LEVEL. fdr: the
    mean error is not shown to be above 1 - target: its 95% lower bound is at most that (where the rule is exact, the
    mean of any number of repetitions lies above it half of the time).
    """
    metrics: dict[str, float] = {"seconds": seconds}
    targets: dict[str, Any] = {}
    for setting, repetitions in found.items():
        figures, errors = _figures(setting, repetitions), [r.fdr.error for r in repetitions]
        metrics |= {f"{name} {setting}": value for name, value in asdict(figures).items() if value is not None}
        most, low = round(1 - setting.target, 10), figures.held_low
        error_low = figures.fdr_error - 1.645 * float(np.std(errors, ddof=1)) / len(errors) ** 0.5
        targets[f"held_low {setting}"] = {"target": LEVEL, "value": low, "met": low >= LEVEL}
        targets[f"fdr_error_low {setting}"] = {"target": most, "value": error_low, "met": error_low <= most}
    return {
        "bench": "calibration",
        "command": "python -m benchmarks.quality.calibration" + (" --quick" if quick else ""),
        "commit": commit(),
        "environment": environment(),
        "repeats": num_repetitions,
        "metrics": metrics,
        "targets": targets,
    }


def _repetition(
    pool_rows: tuple[NDArray[np.float32], NDArray[np.int64]],
    confidences_D: NDArray[np.float32],
    correct_D: NDArray[np.bool_],
    target: float,
) -> Repetition:
    pool_R = pool_rows[0]
    candidates_T = candidate_taus(pool_R, confidences_D.size, NUM_THRESHOLDS, target, LEVEL)
    certified = precision_bound(confidences_D, correct_D, candidates_T, target, LEVEL)
    tau = fdr_threshold(confidences_D[~correct_D], confidences_D.size, pool_R, 1 - target)
    return Repetition(
        _outcome(pool_rows, certified.tau if certified else None), _outcome(pool_rows, tau), _best(pool_rows, target)
    )


def _sorted(confidences: NDArray[np.float32], right: NDArray[np.bool_]) -> tuple[Any, Any]:
    """H in order, and how many of the first 0, 1, 2, ... rows are right."""
    order = np.argsort(confidences, kind="stable")
    return confidences[order], np.append(0, np.cumsum(right[order]))


def _outcome(pool_rows: tuple[NDArray[np.float32], NDArray[np.int64]], tau: float | None) -> Outcome:
    pool_R, right_R = pool_rows
    num_accepted = 0 if tau is None else int(np.searchsorted(pool_R, np.float32(tau), side="right"))
    return Outcome(num_accepted / pool_R.size, 1 - float(right_R[num_accepted]) / num_accepted if num_accepted else 0.0)


def _best(pool_rows: tuple[NDArray[np.float32], NDArray[np.int64]], target: float) -> float:
    pool_R, right_R = pool_rows
    ends = np.flatnonzero(np.append(np.diff(pool_R) > 0, True)) + 1
    precise = ends[right_R[ends] >= target * ends]
    return float(precise[-1]) / pool_R.size if precise.size else 0.0


def _figures(setting: Setting, repetitions: Sequence[Repetition]) -> Figures:
    held_N = np.array([r.bound.error <= 1 - setting.target + 1e-9 for r in repetitions])
    certified_N = np.array([r.bound.accepted > 0 for r in repetitions])
    return Figures(
        best=float(np.mean([r.best for r in repetitions])),
        held=float(held_N.mean()),
        held_low=precision_lower_bound(int(held_N.sum()), held_N.size, LEVEL),
        certified=float(certified_N.mean()),
        held_if=float(held_N[certified_N].mean()) if certified_N.any() else None,
        kept=float(np.mean([r.bound.accepted for r in repetitions])),
        fdr_error=float(np.mean([r.fdr.error for r in repetitions])),
        fdr_kept=float(np.mean([r.fdr.accepted for r in repetitions])),
    )


if __name__ == "__main__":
    sys.exit(main())
