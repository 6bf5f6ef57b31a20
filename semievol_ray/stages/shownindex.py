"""The index of what may be shown: made once, kept beside the step while it runs, mapped by every worker of a node.

Invariant: all parts of a step are answered from one index file, which goes when the step is committed.
"""

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semievol_ray import folders, storage
from semievol_ray.engines.base import Embedder
from semievol_ray.engines.faiss import FaissIndex, Kind, build, open_index, write_index
from semievol_ray.records import parsed
from semievol_ray.runs import Step
from semievol_ray.stages.neighbours import RetrievalPool, shown_rows

SHARED_FROM = 4096
"""Rows below which every worker embeds what may be shown by itself: sooner done than shared."""
CHECKED_ROWS = 64
"""Rows of each part whose neighbours are looked for exactly too, where the index is approximate."""
TIE = 1e-6
"""Cosines closer than this are equal: either of two rows is as near as the other."""
_FILE, _RECALLS = "index.faiss", "recalls"


@dataclass(frozen=True)
class Recall:
    """How many of the exactly nearest an approximate index found, of those that were looked for both ways."""

    num_found: int
    num_wanted: int


def opened(step: Step, shown: Step, embedder: Embedder, kind: Kind) -> RetrievalPool:
    """The rows that may be shown with their index: made here, or mapped from the file of whoever was first."""
    rows = shown_rows(shown)
    if kind == "flat" and len(rows.questions) < SHARED_FROM:
        return RetrievalPool(rows, build(embedder.embed(rows.questions), kind))
    path = made_once(_folder(step), _FILE, lambda path: write_index(embedder.embed(rows.questions), kind, path))
    return RetrievalPool(rows, open_index(path))


def note_recall(step: Step, index: FaissIndex, queries_QD: NDArray[np.float32], k: int, worker: str) -> None:
    """Look for the neighbours of the first rows of a part both ways, and note how many were found.

    Each worker has a file of its own: lines that several machines append to one file on NFS overwrite each other.
    """
    queries_CD = queries_QD[:CHECKED_ROWS]
    if not len(queries_CD):
        return
    exact_Ck, found_Ck = index.search_exactly(queries_CD, k)[0], index.search(queries_CD, k)[0]
    found = int((found_Ck >= exact_Ck[:, -1:] - TIE).sum())
    storage.append_line(f"{_folder(step)}/{_RECALLS}/{worker}.jsonl", json.dumps([found, exact_Ck.size]))


def recall_of(step: Step) -> Recall | None:
    """What was noted of a step's parts, torn lines left out; None where its index is exact."""
    folder = f"{_folder(step)}/{_RECALLS}"
    files = storage.read_all([f"{folder}/{name}" for name in storage.sizes(folder)])
    noted: Any = parsed(line for data in files for line in data.decode(errors="replace").splitlines())
    return Recall(sum(found for found, _ in noted), sum(wanted for _, wanted in noted)) if noted else None


def remove_index(step: Step) -> None:
    """Remove what the workers of a step shared."""
    storage.remove_folder(_folder(step))


def made_once(folder: str, name: str, make: Callable[[str], Any]) -> str:
    """A path on this machine of the file `name` in `folder`; `make(path)` writes it where nobody has.

    One process of a machine makes it while the others wait; of two machines that do, the first one's file stands.
    """
    lock = f"{folders.cache_folder()}/locks/{storage.digest(f'{folder}/{name}'.encode())}.lock"
    with folders.locked(lock):
        if not storage.exists(f"{folder}/{name}"):
            with tempfile.TemporaryDirectory(prefix="semievol-index-") as scratch:
                make(os.path.join(scratch, name))  # noqa: PTH118
                storage.create(f"{folder}/{name}", Path(scratch, name).read_bytes())
    return f"{folders.local_copy(folder, lambda held: held == name)}/{name}"


def _folder(step: Step) -> str:
    return f"{step.path}/index"
