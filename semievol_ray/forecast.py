"""How long a run still takes, from the pace of the last minutes and from what its earlier steps took.

Invariant: where a step that is left cannot be estimated, the answer is None, never a figure that leaves it out.
Short steps between (retrieving, selecting, cutting) count only where an earlier round had the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from semievol_ray.config import RunConfig
from semievol_ray.core.workload import ANSWERS, kind_of

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Left:
    """A step that is not committed: rows of it that are done, and its own estimate where it is under way."""

    name: str
    rows_done: int = 0
    seconds_left: float | None = None


def step_seconds_left(parts_done: int, parts_total: int, rows_done: int, rows_per_second: float) -> float | None:
    """Seconds until the last part, at this pace; None before the first part or without a pace."""
    if not parts_done or rows_per_second <= 0:
        return None
    return (parts_total - parts_done) * rows_done / parts_done / rows_per_second


def run_seconds_left(
    config: RunConfig, records: Mapping[str, Record], left: Sequence[Left], rows_per_second: float | None
) -> float | None:
    """Seconds until the last step of a run commits; None where a step that is left has no estimate."""
    answers = [step for step in left if kind_of(step.name) in ANSWERS]
    totals = [_rows_of(records, step.name) for step in answers]
    if any(total is None for total in totals) or (answers and not rows_per_second):
        return None
    num_rows = sum((t or 0) - step.rows_done for t, step in zip(totals, answers, strict=True))
    seconds = max(0, num_rows) / rows_per_second if rows_per_second else 0.0
    for step in left:
        if step in answers:
            continue
        more = step.seconds_left if step.seconds_left is not None else _as_before(config, records, step.name)
        if more is None:
            return None
        seconds += more
    return seconds


def _as_before(config: RunConfig, records: Mapping[str, Record], name: str) -> float | None:
    """What a step took when an earlier round did it; a fine-tuning by its examples."""
    same = [r["committed"] for of, r in records.items() if kind_of(of) == kind_of(name) and r.get("committed")]
    if kind_of(name) != "train":
        return float(same[-1]["seconds"]) if same else 0.0
    per_example = _seconds_per_example(records)
    return None if per_example is None else per_example * _expected_examples(config, records)


def _seconds_per_example(records: Mapping[str, Record]) -> float | None:
    """Of the fine-tuning on the most examples so far, whose start weighs least."""
    found = []
    for name, record in records.items():
        examples = records.get(f"{name.rpartition('/')[0]}/examples", {}).get("committed")
        if kind_of(name) == "train" and record.get("committed") and examples and examples["num_rows"]:
            found.append((examples["num_rows"], record["committed"]["seconds"] / examples["num_rows"]))
    return max(found)[1] if found else None


def _expected_examples(config: RunConfig, records: Mapping[str, Record]) -> float:
    """Labeled rows and the share of the pool that a percentile accepts; all of the pool under another rule."""
    share = float(getattr(config.method.select, "theta", 1.0))
    labeled, pool = (_committed_rows(records, f"data/{split}") or 0 for split in ("labeled", "unlabeled"))
    return labeled + share * pool


def _rows_of(records: Mapping[str, Record], name: str) -> int | None:
    """Rows that an answering step has in all; a later round's pool counts as the whole one until it is known."""
    folder, kind = name.split("/drafts/")[0], kind_of(name)
    if kind in ("evaluate", "validation"):
        return _committed_rows(records, "data/test" if kind == "evaluate" else "data/validation")
    of_fold = "data/dev" if "/dev/" in name else "data/unlabeled"
    own = _committed_rows(records, f"{folder.removesuffix('/justify')}/pool")
    return own if own is not None else _committed_rows(records, of_fold)


def _committed_rows(records: Mapping[str, Record], name: str) -> int | None:
    committed = records.get(name, {}).get("committed")
    return None if committed is None else int(committed["num_rows"])
