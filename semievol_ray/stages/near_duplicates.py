"""Near duplicates within and across the splits: the report, the step that lists who would go, and leaving them out.

Invariant: a row is listed when a row before it in the order of SPLITS is at least as similar as asked; test rows never
are.
"""

import heapq
import json
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from semievol_ray import schema
from semievol_ray.runs import Step
from semievol_ray.stages.cluster import map_parts
from semievol_ray.stages.minhash import SPLITS, Place, Twins, alike, key_parts, layout_of, rows_of, write_keys

STEP, KEYS = "data/near_duplicates", "data/near_keys"
NUM_EXAMPLES, EXAMPLE_WIDTH = 20, 160


@dataclass(frozen=True)
class NearDuplicates:
    """What was found. Pairs are counted by "higher/lower" split; `lost` and `share` (of the split's rows) by split.

    `exact_only`: too many rows for MinHash, only texts with the same words were looked for. `num_capped` rows have
    more look-alikes than they were compared with, so that pairs, not rows, may be too few.
    """

    similarity: float
    exact_only: bool
    num_rows: dict[str, int]
    pairs: dict[str, int]
    lost: dict[str, int]
    share: dict[str, float]
    num_capped: int
    examples: tuple[dict[str, Any], ...]
    dropped: dict[str, tuple[Twins, ...]]

    def metrics(self) -> dict[str, Any]:
        """All but the rows themselves, as JSON values."""
        return {key: value for key, value in vars(self).items() if key != "dropped"}


def losing(splits: Mapping[str, Step]) -> list[str]:
    """The names of the parts of the step: the splits that can lose rows, by priority."""
    return [split for split in SPLITS if split in splits and split != "test"]


def exact_only(splits: Mapping[str, Step], most_rows: int) -> bool:
    """Whether there are more rows than MinHash is to be used for."""
    return sum(map(_num_rows, splits.values())) > most_rows


def write_near_duplicates(
    step: Step,
    keys: Step,
    splits: Mapping[str, Step],
    similarity: float,
    only_exact: bool,
    on_rows: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Commit NEAR_DUPLICATES, a part for each split of `losing`, in one task; returns the metrics. Needs Ray.

    `keys` is the step, of the parts `key_parts`, in which many tasks leave the NEAR_KEYS of the rows first.
    """
    asked = {"splits": dict(splits), "similarity": similarity, "only_exact": only_exact}
    groups = key_parts(layout_of(splits))
    for row in map_parts(write_keys, keys.missing_parts(), keys=keys, groups=groups, **asked):
        on_rows(row["rows"])
    (row,) = map_parts(_find, ["all"], step=step, keys=keys, **asked)
    metrics: dict[str, Any] = json.loads(row["metrics"])
    return metrics


def _find(
    item: dict[str, Any], step: Step, keys: Step, splits: Mapping[str, Step], similarity: float, only_exact: bool
) -> dict[str, Any]:
    found = near_duplicates(splits, keys, similarity, only_exact)
    for split in step.parts:
        rows = [
            {"id": t.lost_id, "twin_id": t.kept_id, "twin_split": t.kept.split, "similarity": t.similarity}
            for t in found.dropped[split]
        ]
        step.commit_part(split, pa.Table.from_pylist(rows, schema=schema.NEAR_DUPLICATES))
    return {"part": item["part"], "metrics": json.dumps(found.metrics())}


def num_lost(found: Step, split: str) -> int:
    """How many rows a split would lose, from the committed step."""
    return int((found.committed() or {"metrics": {"lost": {}}})["metrics"]["lost"].get(split, 0))


def without(step: Step, source: Step, columns: pa.Schema, found: Step, split: str) -> None:
    """Commit the parts of the split `source` without the rows that `found` lists; a part may end up empty."""
    for _ in map_parts(
        _without, step.missing_parts(), step=step, source=source, columns=columns, found=found, split=split
    ):
        pass


def near_duplicates(splits: Mapping[str, Step], keys: Step, similarity: float, only_exact: bool) -> NearDuplicates:
    """The pairs that are alike and the rows that would go, for any of the splits of SPLITS, from their keys."""
    found = alike(splits, keys, similarity, only_exact)
    num_rows = {split: _num_rows(splits[split]) for split in SPLITS if split in splits}
    dropped = {split: _first_twins(found.pairs, split) for split in losing(splits)}
    return NearDuplicates(
        similarity=1.0 if only_exact else similarity,
        exact_only=only_exact,
        num_rows=num_rows,
        pairs=dict(sorted(Counter(map(_between, found.pairs)).items())),
        lost={split: len(rows) for split, rows in dropped.items()},
        share={split: len(rows) / max(1, num_rows[split]) for split, rows in dropped.items()},
        num_capped=found.num_capped,
        examples=tuple(_told(twins, splits) for twins in _examples(found.pairs)),
        dropped=dropped,
    )


def _first_twins(pairs: Sequence[Twins], split: str) -> tuple[Twins, ...]:
    """For each row that a split loses its most prior twin; pairs come by lost row, then by kept row."""
    first: dict[Place, Twins] = {}
    for twins in pairs:
        if twins.lost.split == split:
            first.setdefault(twins.lost, twins)
    return tuple(first.values())


def _between(twins: Twins) -> str:
    return f"{twins.kept.split}/{twins.lost.split}"


def _examples(pairs: Sequence[Twins]) -> list[Twins]:
    """NUM_EXAMPLES pairs at most: the first of every pair of splits, then the second of each, and so on."""
    seen: Counter[str] = Counter()
    ranked = []
    for order, twins in enumerate(pairs):
        seen[_between(twins)] += 1
        ranked.append((seen[_between(twins)], SPLITS.index(twins.kept.split), order))
    return [pairs[order] for _, _, order in heapq.nsmallest(NUM_EXAMPLES, ranked)]


def _told(twins: Twins, splits: Mapping[str, Step]) -> dict[str, Any]:
    def text(place: Place) -> str:
        row = rows_of(splits, f"{place.split}/{place.part}")[place.position]
        return textwrap.shorten(" | ".join([row["question"], *(row["options"] or ())]), EXAMPLE_WIDTH, placeholder=" …")

    return {
        "similarity": round(twins.similarity, 4),
        "kept": {"split": twins.kept.split, "id": twins.kept_id, "text": text(twins.kept)},
        "lost": {"split": twins.lost.split, "id": twins.lost_id, "text": text(twins.lost)},
    }


def _num_rows(step: Step) -> int:
    return int((step.committed() or {"num_rows": 0})["num_rows"])


def _without(
    item: dict[str, Any], step: Step, source: Step, columns: pa.Schema, found: Step, split: str
) -> dict[str, Any]:
    table, lost = source.read_part(item["part"], columns), _lost_ids(found, split)
    ids = np.array(table.column("id").to_pylist(), dtype=lost.dtype)
    places = np.minimum(np.searchsorted(lost, ids), max(0, len(lost) - 1))
    kept = lost[places] != ids if len(lost) else np.ones(len(ids), dtype=bool)
    left = table.filter(pa.array(kept))
    step.commit_part(item["part"], left)
    return {"rows": left.num_rows}


@lru_cache(maxsize=1)
def _lost_ids(found: Step, split: str) -> NDArray[np.bytes_]:
    """The ids that a split would lose, sorted; read once in a worker, 64 bytes each."""
    ids = found.read_part(split, schema.NEAR_DUPLICATES, ["id"]).column("id").to_pylist()
    return np.sort(np.array(ids, dtype="S64"))
