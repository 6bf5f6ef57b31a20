"""What 100 million rows on 1,000 GPUs would need, reckoned from the measured constants of a run.

Invariant: every figure is a product of a measured constant and a stated assumption.
"""

from collections.abc import Mapping
from dataclasses import dataclass

ROWS, GPUS = 100_000_000, 1_000
PART_ROWS = 2048
REQUESTS_A_ROW = 5
TOKENS_A_REQUEST = 64
TOKENS_A_SECOND_AND_GPU = 10_000
ASSUMPTIONS = (
    f"{ROWS:,} rows in parts of {PART_ROWS}, four drafts and a justification a row, one round, part_rows auto",
    f"{TOKENS_A_REQUEST} tokens answered a request, {TOKENS_A_SECOND_AND_GPU:,} tokens a second and GPU (8B)",
    "files, bytes, driver time and driver memory grow with parts and rows as measured between the two largest runs",
    "on an object store a file is an object; a part is created once, read once at its step's commit and "
    "once by the next step, and its attempt noted",
)


@dataclass(frozen=True)
class Constants:
    """What was measured: by part, by row, or once."""

    files_a_part: float
    bytes_a_row: float
    driver_ms_a_part: float
    driver_mib: float
    driver_bytes_a_row: float
    select_seconds_a_row: float
    worker_ms_a_row: float


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
        "driver busy while answering, share of one core": parts * found.driver_ms_a_part / 1000 / seconds,
        "worker cores for rendering and parsing": ROWS * found.worker_ms_a_row / 1000 / seconds,
        "head-node driver memory, GiB": found.driver_mib / 1024 + ROWS * found.driver_bytes_a_row / 2**30,
        "select on 2 cores, minutes": ROWS * found.select_seconds_a_row / 60,
    }


def rendered(figures: Mapping[str, float]) -> list[str]:
    """The figures and what they stand on, as lines."""
    lines = [f"{ROWS:,} rows on {GPUS:,} GPUs would need:"]
    lines += [f"  {name}: {value:,.{0 if value >= 100 else 2}f}" for name, value in figures.items()]
    return [*lines, "assuming:", *(f"  {assumption}" for assumption in ASSUMPTIONS)]
