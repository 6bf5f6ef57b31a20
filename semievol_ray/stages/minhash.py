"""Which rows of the splits are alike: MinHash bands from Ray Data tasks, paired on the driver, then exact Jaccard.

Invariant: the pairs depend on the rows alone, not on the number of workers or the order in which they end. Positions
count all rows in order of priority, so that the later row of a pair is the one that would go.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semievol_ray import schema, storage
from semievol_ray.core import shingles
from semievol_ray.errors import MissingExtraError
from semievol_ray.runs import Step
from semievol_ray.stages.cluster import map_parts

SPLITS = ("test", "validation", "dev", "labeled", "unlabeled")
"""From the highest priority: of two rows that are alike the one of the later split goes; within a split the later."""

NUM_PERMUTATIONS, RECALL, MOST_COMPARED = 128, 0.99, 32
Layout = Sequence[tuple[str, int]]
"""("split/part", number of rows) of every part, in the order of priority."""


@dataclass(frozen=True)
class Place:
    """Where a row lies: its split, its part of that split, and its position in the part."""

    split: str
    part: str
    position: int


@dataclass(frozen=True)
class Twins:
    """A verified pair; `kept` is the row with priority, each with its id."""

    kept: Place
    kept_id: str
    lost: Place
    lost_id: str
    similarity: float


@dataclass(frozen=True)
class Alike:
    """The verified pairs by (lost, kept) row; `num_capped` rows share a band with more rows than were compared."""

    pairs: tuple[Twins, ...]
    num_capped: int


def alike(splits: Mapping[str, Step], similarity: float, only_exact: bool, on_rows: Callable[[int], None]) -> Alike:
    """The pairs of rows whose 3-word shingles have at least that Jaccard similarity (1 if `only_exact`). Needs Ray.

    MinHash proposes a pair at the threshold with probability RECALL or more. The driver holds a 64-bit key for each
    band of each row (12 at similarity 0.9), and the shingles of the rows that share one.
    """
    layout = _layout(splits)
    keys_NB = _keys(layout, splits, similarity, only_exact, on_rows)
    proposed = shingles.candidates(keys_NB, MOST_COMPARED)
    found = _verified(layout, splits, proposed, 1.0 if only_exact else similarity)
    return Alike(tuple(found), proposed.num_capped)


def rows_of(splits: Mapping[str, Step], name: str) -> list[dict[str, Any]]:
    """Id, question and options of the rows of the part "split/part", in order."""
    split, part = name.split("/")
    columns = schema.UNLABELED if split in ("dev", "unlabeled") else schema.LABELED
    rows: list[dict[str, Any]] = (
        splits[split].read_part(part, columns).select(["id", "question", "options"]).to_pylist()
    )
    return rows


def _layout(splits: Mapping[str, Step]) -> Layout:
    parts = [(split, part) for split in SPLITS if split in splits for part in splits[split].parts]
    return [(f"{split}/{part}", storage.num_rows(splits[split].part_path(part))) for split, part in parts]


def _keys(
    layout: Layout,
    splits: Mapping[str, Step],
    similarity: float,
    only_exact: bool,
    on_rows: Callable[[int], None],
) -> NDArray[np.uint64]:
    """Band keys (N, B) of all rows in order of priority; one key of the whole set where only exact ones count."""
    shape = None if only_exact else shingles.bands(similarity, NUM_PERMUTATIONS, RECALL)
    offsets = dict(zip((name for name, _ in layout), np.cumsum([0, *(num for _, num in layout)]), strict=False))
    keys_NB = np.zeros((sum(num for _, num in layout), shape[0] if shape else 1), dtype=np.uint64)
    for row in map_parts(_part_keys, [name for name, _ in layout], splits=dict(splits), shape=shape):
        keys_nB = np.frombuffer(row["keys"], dtype=np.uint64).reshape(-1, keys_NB.shape[1])
        keys_NB[offsets[row["part"]] : offsets[row["part"]] + len(keys_nB)] = keys_nB
        on_rows(len(keys_nB))
    return keys_NB


def _part_keys(item: dict[str, Any], splits: dict[str, Step], shape: tuple[int, int] | None) -> dict[str, Any]:
    sets = [shingles.shingles(row["question"], row["options"]) for row in rows_of(splits, item["part"])]
    if shape is None:
        keys = np.array([[shingles.set_key(found)] for found in sets], dtype=np.uint64)
    else:
        keys = shingles.band_keys(_minhashes(sets), *shape)
    return {"part": item["part"], "keys": keys.tobytes()}


def _minhashes(sets: Sequence[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """The MinHash (n, NUM_PERMUTATIONS) of each set; a fixed seed makes all workers' comparable."""
    try:
        from datasketch import MinHash
    except ImportError as error:
        raise MissingExtraError("data.near_duplicates needs datasketch: pip install 'semievol-ray[cpu]'") from error
    made = MinHash.generator(sets, num_perm=NUM_PERMUTATIONS, seed=1, scheme="affine64", hashfunc=int)
    return np.array([one.hashvalues for one in made], dtype=np.uint64).reshape(-1, NUM_PERMUTATIONS)


def _verified(
    layout: Layout, splits: Mapping[str, Step], proposed: shingles.Candidates, similarity: float
) -> Iterator[Twins]:
    """The proposed pairs that are as similar as asked, by (later, earlier) row."""
    positions = np.unique(np.concatenate([proposed.earlier, proposed.later]))
    places = _places(layout, positions)
    wanted: dict[str, list[int]] = defaultdict(list)
    for place in places.values():
        wanted[f"{place.split}/{place.part}"].append(place.position)
    found: dict[Place, tuple[str, NDArray[np.uint64]]] = {}
    for row in map_parts(_part_sets, sorted(wanted), splits=dict(splits), wanted=dict(wanted)):
        split, part = row["part"].split("/")
        for position, row_id, data in zip(row["positions"], row["ids"], row["sets"], strict=True):
            found[Place(split, part, position)] = (row_id, np.frombuffer(data, dtype=np.uint64))
    for i in np.lexsort((proposed.earlier, proposed.later)):
        kept, lost = places[int(proposed.earlier[i])], places[int(proposed.later[i])]
        (kept_id, kept_set), (lost_id, lost_set) = found[kept], found[lost]
        if (value := shingles.jaccard(kept_set, lost_set)) >= similarity:
            yield Twins(kept, kept_id, lost, lost_id, value)


def _places(layout: Layout, positions: NDArray[np.int64]) -> dict[int, Place]:
    ends = np.cumsum([num for _, num in layout])
    found = {}
    for position, nth in zip(positions.tolist(), np.searchsorted(ends, positions, side="right"), strict=True):
        name, num = layout[int(nth)]
        split, part = name.split("/")
        found[position] = Place(split, part, position - int(ends[nth] - num))
    return found


def _part_sets(item: dict[str, Any], splits: dict[str, Step], wanted: dict[str, list[int]]) -> dict[str, Any]:
    rows, positions = rows_of(splits, item["part"]), sorted(wanted[item["part"]])
    sets = [shingles.shingles(rows[p]["question"], rows[p]["options"]).tobytes() for p in positions]
    return {"part": item["part"], "positions": positions, "ids": [rows[p]["id"] for p in positions], "sets": sets}
