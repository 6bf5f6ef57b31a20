"""What a person is told while a fine-tuning goes on, from the lines of its loss curve.

Invariant: lines of older runs, which have a loss and no pace, are told too.
"""

from collections.abc import Mapping
from typing import Any

from semievol_ray.placement import gigabytes
from semievol_ray.progress import duration

PILOT_STEP = 2
"""The first step whose time is that of the others: before it the libraries warm up."""


def paced(line: Mapping[str, Any]) -> str:
    """The note of a progress line: loss, tokens a second, MFU where it is known."""
    notes = [f"loss {line['loss']:.3f}"]
    if "tokens_per_second" in line:
        notes.append(f"{line['tokens_per_second']:,.0f} tokens/s")
    if "mfu" in line:
        notes.append(f"MFU {line['mfu']:.0%}")
    return ", ".join(notes)


def forecast(line: Mapping[str, Any]) -> str | None:
    """What the pilot steps showed: how long all steps take, and the memory so far; None for every other line."""
    if line["step"] != PILOT_STEP or "seconds" not in line or line["num_steps"] <= PILOT_STEP:
        return None
    left = line["seconds"] * (line["num_steps"] - line["step"])
    return (
        f"a step takes about {line['seconds']:.1f} s, the {line['num_steps'] - line['step']} left {duration(left)}; "
        f"the first worker held {gigabytes(line['memory_bytes'])} at most so far"
    )
