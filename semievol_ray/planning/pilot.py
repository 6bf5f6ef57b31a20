"""The pilot: a small run of the same steps on the cluster at hand, beside the run that is planned.

Invariant: at most MOST_SHARE of the pool is answered; what the pilot learns and selects is used for nothing else.
"""

from collections.abc import Mapping
from dataclasses import asdict

from semievol_ray import driver, storage
from semievol_ray.config import RunConfig, Source
from semievol_ray.core.workload import Splits
from semievol_ray.errors import ConfigError
from semievol_ray.methodconfig import PercentileConfig, RoundsConfig
from semievol_ray.placement import Resources
from semievol_ray.planning.measured import Measured, measured
from semievol_ray.planning.stopwatch import Lap, Stopwatch
from semievol_ray.progress import Progress
from semievol_ray.records import encode, read_json

MOST_SHARE, FEWEST_ROWS, MOST_ERRORS = 0.10, 8, 0.5


def run_pilot(
    config: RunConfig, splits: Splits, num_rows: int, root: str, progress: Progress, resources: Resources
) -> Measured:
    """Do the pilot of the run in `root` beside it, or what is left of it, and measure it; `resources` are at hand.

    Raises what a run raises, and ConfigError where the pool is too small for a pilot.
    """
    small = pilot_config(config, splits, num_rows)
    watch = Stopwatch(progress)
    folder = f"{root}.pilot-{storage.digest(small.model_dump_json().encode())[:8]}"
    progress.say(f"pilot: {small.data.unlabeled.sample} of {splits.pool} rows, in {folder}")
    driver.run(small, folder, watch)
    return measured(folder, small, _with_earlier(folder, watch.laps), resources)


def _with_earlier(folder: str, laps: Mapping[str, Lap]) -> dict[str, Lap]:
    """The bars of this attempt over those of earlier ones, whose steps are not done again; kept with the pilot."""
    path = f"{folder}/laps.json"
    earlier = read_json(path) if storage.exists(path) else {}
    found = {name: Lap(at["began"], [(t, d) for t, d in at["marks"]], at["ended"]) for name, at in earlier.items()}
    found |= {name: lap for name, lap in laps.items() if lap.marks}
    storage.write(path, encode({name: asdict(lap) for name, lap in found.items()}))
    return found


def pilot_config(config: RunConfig, splits: Splits, num_rows: int) -> RunConfig:
    """The configuration of a pilot: one round, fewer rows of each split in like shares, nothing that could stop it.

    Raises ConfigError where the pool is too small for one.
    """
    rows = min(num_rows, int(splits.pool * MOST_SHARE))
    if rows < FEWEST_ROWS:
        raise ConfigError(
            f"--pilot {num_rows}: a pilot answers at most {MOST_SHARE:.0%} of the pool, which has {splits.pool} rows; "
            f"{rows} are too few to measure. Give --pilot 0, which computes from the model's shape."
        )
    share, data, method = rows / splits.pool, config.data, config.method
    test = max(1, round(splits.test * share))
    return config.model_copy(
        update={
            "data": data.model_copy(
                update={
                    "unlabeled": _sampled(data.unlabeled, rows),
                    "labeled": _sampled(data.labeled, min(splits.labeled + splits.dev + splits.validation, rows)),
                    "test": _sampled(data.test, test) if data.test else None,
                    "dev": 0,
                    "validation": 0,
                    "annotations": (),
                }
            ),
            "method": method.model_copy(
                update={
                    "rounds": RoundsConfig(),
                    "select": PercentileConfig(theta=float(getattr(method.select, "theta", 0.5))),
                }
            ),
            "guard": config.guard.model_copy(update={"min_accepted": 1, "min_answers": 1, "min_precision": None}),
            "max_error_rate": max(config.max_error_rate, MOST_ERRORS),
            "keep": "all",
            "report_to": (),
        }
    )


def _sampled(source: Source, rows: int) -> Source:
    return source.model_copy(update={"sample": min(rows, source.sample or rows)})
