"""Retrieve, the in-context propagation: the k nearest labeled questions of each unlabeled one, by cosine.

Invariant: no row retrieves a row with its own id or its normalised question.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from semievol_ray import schema
from semievol_ray.core.identity import normalise
from semievol_ray.engines.base import Embedder, Index
from semievol_ray.engines.embed import open_embedder
from semievol_ray.engines.faiss import FlatIndex
from semievol_ray.runs import Step
from semievol_ray.stages.cluster import streamed


@dataclass(frozen=True)
class RetrieveJob:
    """What an embedding actor needs: where the rows are, which embedder, and k."""

    step: Step
    pool: Step
    labeled: Step
    embedder_path: str
    num_demonstrations: int


@dataclass(frozen=True)
class LabeledPool:
    """The retrieval pool: ids and normalised questions of the N labeled rows beside their index."""

    ids: list[str]
    questions: list[str]
    index: Index


def retrieve(job: RetrieveJob, on_part: Callable[[int], None]) -> None:
    """Commit DEMONSTRATIONS for every missing part; `on_part` gets the number of rows of each."""
    import ray

    items = [{"part": part} for part in job.step.missing_parts()]
    if not items:
        return
    rows = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        RetrieveWorker, fn_constructor_args=(job,), batch_size=1, compute=ray.data.ActorPoolStrategy(size=1), num_cpus=1
    )
    for row in streamed(rows):
        on_part(int(row["num_rows"]))


class RetrieveWorker:
    """The actor: embeds the labeled rows once, then answers parts."""

    def __init__(self, job: RetrieveJob) -> None:
        self._job = job
        self._embedder: Embedder = open_embedder(job.embedder_path)
        self._pool = index_labeled(job.labeled, self._embedder)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        part = str(batch["part"][0])
        self._job.step.begin_attempt(part)
        table = nearest(
            self._job.pool.read_part(part, schema.UNLABELED), self._pool, self._embedder, self._job.num_demonstrations
        )
        self._job.step.commit_part(part, table)
        return {"num_rows": [table.num_rows]}


def index_labeled(labeled: Step, embedder: Embedder) -> LabeledPool:
    """Embed and index every labeled question."""
    tables = [labeled.read_part(part, schema.LABELED) for part in labeled.parts]
    questions = [q for table in tables for q in table.column("question").to_pylist()]
    ids = [i for table in tables for i in table.column("id").to_pylist()]
    return LabeledPool(ids, [normalise(q) for q in questions], FlatIndex(embedder.embed(questions)))


def nearest(rows: pa.Table, pool: LabeledPool, embedder: Embedder, k: int) -> pa.Table:
    """DEMONSTRATIONS of a part: up to k ids and cosines a row, nearest first, a row's own question left out."""
    questions = rows.column("question").to_pylist()
    queries_QD = embedder.embed(questions)
    repeats = max((pool.questions.count(q) for q in {normalise(q) for q in questions} & set(pool.questions)), default=0)
    scores_Qk, positions_Qk = pool.index.search(queries_QD, k + repeats)
    found = [
        _kept(normalise(q), row_id, scores, positions, pool, k)
        for q, row_id, scores, positions in zip(
            questions, rows.column("id").to_pylist(), scores_Qk, positions_Qk, strict=True
        )
    ]
    return pa.Table.from_pylist(found, schema=schema.DEMONSTRATIONS)


def _kept(
    question: str, row_id: str, scores: np.ndarray[Any, Any], positions: np.ndarray[Any, Any], pool: LabeledPool, k: int
) -> dict[str, Any]:
    pairs = [
        (pool.ids[p], float(s))
        for s, p in zip(scores, positions, strict=True)
        if pool.questions[p] != question and pool.ids[p] != row_id
    ][:k]
    return {"id": row_id, "demonstration_ids": [i for i, _ in pairs], "scores": [s for _, s in pairs]}
