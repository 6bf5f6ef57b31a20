"""Which rows of the splits are alike: MinHash bands from many tasks, paired and compared exactly in one.

Invariant: the pairs depend on the rows alone, not on the number of workers or the order in which they end. Positions
count all rows in order of priority, so that the later row of a pair is the one that would go.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from semievol_ray import schema
from semievol_ray.core import shingles
from semievol_ray.errors import MissingExtraError
from semievol_ray.runs import Step

SPLITS = ("test", "validation", "dev", "labeled", "unlabeled")
"""From the highest priority: of two rows that are alike the one of the later split goes; within a split the later."""

NUM_PERMUTATIONS, RECALL, MOST_COMPARED = 128, 0.99, 32
ROWS_OF_KEYS = 2048
"""Rows whose keys lie in one part, at least; the keys of small parts lie together."""

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


def layout_of(splits: Mapping[str, Step]) -> Layout:
    """The parts of all splits with their rows, in the order of priority."""
    found = []
    for split in (name for name in SPLITS if name in splits):
        names = [f"{split}/{part}" for part in splits[split].parts]
        found += list(zip(names, splits[split].lengths(), strict=True))
    return found


def key_parts(layout: Layout) -> dict[str, Layout]:
    """Name -> the parts whose keys lie together, in the order of priority."""
    groups: list[list[tuple[str, int]]] = [[]]
    for name, num in layout:
        if sum(of for _, of in groups[-1]) >= ROWS_OF_KEYS:
            groups.append([])
        groups[-1].append((name, num))
    return {f"keys-{i:05d}": group for i, group in enumerate(groups)}


def write_keys(
    item: dict[str, Any], keys: Step, groups: Mapping[str, Layout], splits: Mapping[str, Step], similarity: float,
    only_exact: bool,
) -> dict[str, Any]:  # fmt: skip
    """Commit NEAR_KEYS of the parts of a group; one key of the whole set of shingles where only exact ones count."""
    group = groups[item["part"]]
    sets = [shingles.shingles(row["question"], row["options"]) for name, _ in group for row in rows_of(splits, name)]
    if only_exact:
        keys_nB = np.array([[shingles.set_key(found)] for found in sets], dtype=np.uint64)
    else:
        keys_nB = shingles.band_keys(_minhashes(sets), *_shape(similarity))
    keys.commit_part(item["part"], pa.table([keys_nB.ravel()], schema=schema.NEAR_KEYS))
    return {"part": item["part"], "rows": len(sets)}


def alike(splits: Mapping[str, Step], keys: Step, similarity: float, only_exact: bool) -> Alike:
    """The pairs of rows whose 3-word shingles have at least that Jaccard similarity (1 if `only_exact`).

    MinHash proposes a pair at the threshold with probability RECALL or more. Memory: the keys of all rows (12 of 64
    bits each at similarity 0.9) several times over, and the shingles of the rows that share one.
    """
    layout = layout_of(splits)
    width = 1 if only_exact else _shape(similarity)[0]
    keys_NB = np.empty((sum(num for _, num in layout), width), dtype=np.uint64)
    begin = 0
    for part, group in key_parts(layout).items():
        end = begin + sum(num for _, num in group)
        keys_NB[begin:end] = keys.read_part(part, schema.NEAR_KEYS).column("key").to_numpy().reshape(-1, width)
        begin = end
    proposed = shingles.candidates(keys_NB, MOST_COMPARED)
    found = _verified(layout, splits, proposed, 1.0 if only_exact else similarity)
    return Alike(tuple(found), proposed.num_capped)


def _shape(similarity: float) -> tuple[int, int]:
    return shingles.bands(similarity, NUM_PERMUTATIONS, RECALL)


def rows_of(splits: Mapping[str, Step], name: str) -> list[dict[str, Any]]:
    """Id, question and options of the rows of the part "split/part", in order."""
    split, part = name.split("/")
    columns = schema.UNLABELED if split in ("dev", "unlabeled") else schema.LABELED
    rows: list[dict[str, Any]] = (
        splits[split].read_part(part, columns).select(["id", "question", "options"]).to_pylist()
    )
    return rows


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
    for name, within in wanted.items():
        (split, part), rows = name.split("/"), rows_of(splits, name)
        for row, position in ((rows[position], position) for position in within):
            found[Place(split, part, position)] = row["id"], shingles.shingles(row["question"], row["options"])
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
