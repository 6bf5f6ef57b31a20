"""What 100 million rows on 1,000 GPUs would need, reckoned from the measured constants of a run.

`python -m benchmarks.scale_model FILE` reckons it anew from a result file of `benchmarks.scale`, and keeps it there.
Invariant: every figure is a product of a measured constant and a stated assumption.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROWS, GPUS = 100_000_000, 1_000
PART_ROWS = 2048
REQUESTS_A_ROW = 5
TOKENS_A_REQUEST = 64
TOKENS_A_SECOND_AND_GPU = 10_000
NUM_SESSIONS = 2
"""A part is handed to an actor of the base model and to one of M_warm; each is a part of the driver's work."""
A_PART = "driver and Ray CPU ms a part, by least squares"
A_SECOND = "driver and Ray CPU ms a second of answering, by least squares"
ASSUMPTIONS = (
    f"{ROWS:,} rows in parts of {PART_ROWS}, four drafts and a justification a row, one round, part_rows auto",
    f"{TOKENS_A_REQUEST} tokens answered a request, {TOKENS_A_SECOND_AND_GPU:,} tokens a second and GPU (8B)",
    "files, bytes and memory grow with parts and rows as measured between the two largest runs; driver time "
    "grows with parts and with seconds, by least squares over all runs",
    "on an object store a file is an object; a part is created once, read once at its step's commit and "
    "once by the next step, and its attempt noted",
)


@dataclass(frozen=True)
class Constants:
    """What was measured: by part, by row, or once."""

    files_a_part: float
    bytes_a_row: float
    driver_ms_a_part: float
    driver_ms_a_second: float
    driver_mib: float
    driver_bytes_a_row: float
    deciding_bytes_a_row: float
    select_seconds_a_row: float
    worker_ms_a_row: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Reckon from the figures of a result file, print it, and keep it in the file."""
    path = Path((sys.argv[1:] if arguments is None else arguments)[0])
    told = json.loads(path.read_text(encoding="utf-8"))
    print("\n".join(added(told["metrics"])))
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return 0


def added(metrics: dict[str, float]) -> list[str]:
    """Add what follows from the figures to them; its lines, none where too little was measured."""
    metrics |= driving(metrics)
    found = _constants(metrics)
    if found is None:
        return []
    figures = needed(found)
    metrics |= {f"{ROWS // 10**6} million rows on {GPUS:,} GPUs: {key}": value for key, value in figures.items()}
    return rendered(figures)


def driving(metrics: Mapping[str, float]) -> dict[str, float]:
    """What of the driver's and Ray's own processor time while actors answer goes by the part, and what by the second.

    Ray Data looks for what has ended ten times a second, and its output is looked for a hundred times; on few cores,
    where a part takes seconds, that is most of it. seconds of CPU = fixed + a x parts + b x seconds of answering, by
    least squares of the relative error over the rounds; nothing for fewer than three rounds.
    """
    sizes = [f"{size:,} rows" for size in _sizes(metrics)]
    if len(sizes) < 3:
        return {}
    spent_S = np.array([sum(metrics[f"{s}, answer {kind} CPU seconds"] for kind in ("driver", "ray")) for s in sizes])
    grown_S3 = np.array([[1.0, metrics[f"{s}, parts"] * NUM_SESSIONS, metrics[f"{s}, answer seconds"]] for s in sizes])
    _, a_part, a_second = np.linalg.lstsq(grown_S3 / spent_S[:, None], np.ones(len(sizes)), rcond=None)[0]
    return {A_PART: 1000 * float(a_part), A_SECOND: 1000 * float(a_second)}


def _sizes(metrics: Mapping[str, float]) -> list[int]:
    return sorted({int(name.split(" rows,")[0].replace(",", "")) for name in metrics if name.endswith("rows, parts")})


def _constants(metrics: Mapping[str, float]) -> Constants | None:
    """The constants, where the figures that they stand on were measured."""
    worker, select = "worker CPU ms a row, pipeline (bytes)", "select seconds a row"
    if not {worker, select, A_PART} <= metrics.keys():
        return None
    name = f"{_sizes(metrics)[-1]:,} rows"
    before, last = (metrics[f"{size:,} rows, worker peak MiB"] for size in _sizes(metrics)[-2:])
    further = _sizes(metrics)[-1] - _sizes(metrics)[-2]
    growth = [value for key, value in metrics.items() if key.startswith("driver bytes a row")] or [0.0]
    return Constants(
        files_a_part=metrics[f"{name}, files"] / metrics[f"{name}, parts"],
        bytes_a_row=metrics[f"{name}, bytes a row"],
        driver_ms_a_part=metrics[A_PART] * NUM_SESSIONS,
        driver_ms_a_second=metrics[A_SECOND],
        driver_mib=metrics[f"{name}, driver peak MiB"],
        driver_bytes_a_row=max(growth[-1], 4.0),
        deciding_bytes_a_row=max(0.0, last - before) * 2**20 / further,
        select_seconds_a_row=metrics[select],
        worker_ms_a_row=metrics[worker],
    )


def needed(found: Constants) -> dict[str, float]:
    """The figures at ROWS and GPUS, by name with its unit."""
    parts = -(-ROWS // PART_ROWS)
    seconds = ROWS * REQUESTS_A_ROW * TOKENS_A_REQUEST / TOKENS_A_SECOND_AND_GPU / GPUS
    requests = parts * found.files_a_part * 4  # looked for, created, read at the commit and by the next step
    return {
        "parts": parts,
        "files or objects": parts * found.files_a_part,
        "largest folder, files": parts,
        "bytes stored, GB": ROWS * found.bytes_a_row / 1e9,
        "hours of answering": seconds / 3600,
        "parts a second": parts / seconds,
        "storage requests a second, mean": requests / seconds,
        "driver busy while answering, share of one core": parts * found.driver_ms_a_part / 1000 / seconds
        + found.driver_ms_a_second / 1000,
        "worker cores for rendering and parsing": ROWS * found.worker_ms_a_row / 1000 / seconds,
        "head-node driver memory, GiB": found.driver_mib / 1024 + ROWS * found.driver_bytes_a_row / 2**30,
        "memory of the task that finds duplicates, GiB": ROWS * found.deciding_bytes_a_row / 2**30,
        "select on 2 cores, minutes": ROWS * found.select_seconds_a_row / 60,
    }


def rendered(figures: Mapping[str, float]) -> list[str]:
    """The figures and what they stand on, as lines."""
    lines = [f"{ROWS:,} rows on {GPUS:,} GPUs would need:"]
    lines += [f"  {name}: {value:,.{0 if value >= 100 else 2}f}" for name, value in figures.items()]
    return [*lines, "assuming:", *(f"  {assumption}" for assumption in ASSUMPTIONS)]


if __name__ == "__main__":
    sys.exit(main())
