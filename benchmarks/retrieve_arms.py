"""The arms of the retrieval benchmark, each as its own users would write it, on the same vectors and texts.

Invariant: the product's arm is what a retrieval actor calls for a part, from vectors to the table it commits.
"""

import csv
import hashlib
import os
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from semievol_ray import schema
from semievol_ray.engines.embed import open_embedder
from semievol_ray.engines.faiss import Kind, build, open_index, write_index
from semievol_ray.engines.models import resolve_model
from semievol_ray.stages.neighbours import RetrievalPool, Shown, nearest

PART_ROWS = 1953
"""Rows of a part of a pool of a million: `part_rows: auto`, a 512th of it."""
NUMPY_SHARE = 10
"""numpy is asked one in so many questions."""
EMBEDDER = "all-minilm-l6-v2"
GLOSSES = Path(__file__).parent / "data" / "wordnet" / "unlabeled.csv"
_LATENT, _CENTRES, _SPREAD, _NOISE = 32, 500, 0.8, 0.05


def clustered(num: int, seed: int, dimensions: int) -> NDArray[np.float32]:
    """Unit vectors around 500 centres that lie in 32 of the dimensions, as sentences' vectors do, and some noise."""
    shared, own = np.random.default_rng(0), np.random.default_rng(seed)
    centres_CL = shared.normal(size=(_CENTRES, _LATENT)).astype(np.float32)
    spread_LD = shared.normal(size=(_LATENT, dimensions)).astype(np.float32) / np.sqrt(_LATENT)
    latent_NL = centres_CL[own.integers(0, _CENTRES, num)]
    latent_NL = latent_NL + _SPREAD * own.standard_normal((num, _LATENT), dtype=np.float32)
    vectors_ND = latent_NL @ spread_LD + _NOISE * own.standard_normal((num, dimensions), dtype=np.float32)
    return np.asarray(vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True), dtype=np.float32)


class Asked:
    """Questions of one turn against the same keys, for every arm; `largest_difference` is between scores of two."""

    def __init__(self, keys_ND: NDArray[np.float32], num_questions: int, k: int) -> None:
        import faiss

        self._keys_ND, self._num, self._k = keys_ND, num_questions, k
        self._raw = faiss.IndexFlatIP(keys_ND.shape[1])
        self._raw.add(keys_ND)
        num = len(keys_ND)
        shown = Shown(
            pa.array([_id(f"key {i}") for i in range(num)]),
            [f"labeled question number {i}" for i in range(num)],
            pa.array(["gold"] * num),
        )
        self._pool = RetrievalPool(shown, build(keys_ND, "flat"))
        self._scores: dict[str, NDArray[np.float32]] = {}
        self.largest_difference = 0.0

    def draw(self, turn: int) -> None:
        """The questions of a turn, with their vectors and their rows."""
        self._compare()
        self._queries_QD = clustered(self._num, 100 + turn, self._keys_ND.shape[1])
        questions = [f"question number {i} of turn {turn}: what kind of thing is it?" for i in range(self._num)]
        nothing = [None] * self._num
        columns = {"id": [_id(q) for q in questions], "question": questions, "options": nothing, "group": nothing}
        self._rows = pa.table({**columns, "num_copies": [1] * self._num}, schema=schema.UNLABELED)

    def raw_faiss(self) -> None:
        """All questions of the turn in one call."""
        self._scores["raw FAISS"], _ = self._raw.search(self._queries_QD, self._k)

    def product(self) -> None:
        """Part by part, to tables of demonstrations."""
        tables = []
        for at in range(0, self._num, PART_ROWS):
            rows = self._rows.slice(at, PART_ROWS)
            tables.append(nearest(rows, self._queries_QD[at : at + PART_ROWS], self._pool, self._k))
        scores = pa.concat_tables(tables).column("scores").combine_chunks().flatten()
        self._scores["semievol"] = scores.to_numpy().reshape(self._num, self._k)

    def plain_numpy(self) -> None:
        """Products of blocks of questions with all keys, then the largest three of each row."""
        for at in range(0, self._num // NUMPY_SHARE, PART_ROWS):
            block_BN = self._queries_QD[at : min(at + PART_ROWS, self._num // NUMPY_SHARE)] @ self._keys_ND.T
            best_Bk = np.argpartition(-block_BN, self._k, axis=1)[:, : self._k]
            np.argsort(-np.take_along_axis(block_BN, best_Bk, axis=1), axis=1)

    def _compare(self) -> None:
        if len(self._scores) == 2:
            found = float(np.abs(self._scores["raw FAISS"] - self._scores["semievol"]).max())
            self.largest_difference = max(self.largest_difference, found)


class Embedders:
    """sentence-transformers as its documentation has it, and the product's embedder, on the same texts and threads."""

    def __init__(self, texts: Sequence[str]) -> None:
        from sentence_transformers import SentenceTransformer

        path = resolve_model(EMBEDDER).path
        self._texts = list(texts)
        self._plain: Any = SentenceTransformer(path, local_files_only=True)
        self._product = open_embedder(path)
        self.largest_difference = 0.0

    def plain(self) -> None:
        self._expected = self._plain.encode(self._texts, normalize_embeddings=True)

    def product(self) -> None:
        vectors_ND = self._product.embed(self._texts)
        self.largest_difference = max(self.largest_difference, float(np.abs(vectors_ND - self._expected).max()))


def texts(num: int) -> dict[str, list[str]]:
    """`num` definitions of WordNet, and a quarter as many texts of 1 to 12 definitions, most of them short."""
    with GLOSSES.open(encoding="utf-8") as file:
        glosses = [row["question"] for row in csv.DictReader(file)]
    drawn = random.Random(0)
    mixed = [" ".join(drawn.choices(glosses, k=min(12, int(drawn.paretovariate(1))))) for _ in range(num // 4)]
    return {"definitions": drawn.sample(glosses, min(num, len(glosses))), "texts of mixed lengths": mixed}


def kinds(vectors_ND: NDArray[np.float32], asked_QD: NDArray[np.float32], k: int) -> dict[str, dict[str, float]]:
    """Building, asking and recall@k of each kind of index; asked in parts, from the mapped file, the second time."""
    found: dict[str, dict[str, float]] = {}
    exact_Qk = build(vectors_ND, "flat").search(asked_QD, k)[1]
    every: tuple[Kind, ...] = ("flat", "hnsw", "ivf")
    for kind in every:
        path = Path(tempfile.gettempdir(), f"semievol-bench-{os.getpid()}-{kind}.faiss")
        try:
            began = time.perf_counter()
            write_index(vectors_ND, kind, str(path))
            built = time.perf_counter() - began
            index = open_index(str(path))
            index.search(asked_QD[:256], k)
            began = time.perf_counter()
            positions = [index.search(asked_QD[i : i + PART_ROWS], k)[1] for i in range(0, len(asked_QD), PART_ROWS)]
            asked = time.perf_counter() - began
        finally:
            path.unlink(missing_ok=True)
        both = zip(np.concatenate(positions).tolist(), exact_Qk.tolist(), strict=True)
        hit = sum(len(set(a) & set(b)) for a, b in both) / exact_Qk.size
        found[kind] = {"seconds to build": built, "us a question": 1e6 * asked / len(asked_QD), f"recall@{k}": hit}
    return found


def _id(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
