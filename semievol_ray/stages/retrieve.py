"""Retrieve, the in-context propagation: the k nearest labeled questions of each unlabeled one, by cosine.

Invariant: no row retrieves a row with its own id or its normalised question.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from semievol_ray import schema
from semievol_ray.alignment import check_covers
from semievol_ray.engines.base import Embedder
from semievol_ray.engines.embed import open_embedder
from semievol_ray.engines.faiss import FaissIndex, Kind
from semievol_ray.placement import cluster_resources, place_embedding
from semievol_ray.runs import Step
from semievol_ray.stages.cluster import map_parts, streamed
from semievol_ray.stages.neighbours import nearest
from semievol_ray.stages.shownindex import note_recall, opened


@dataclass(frozen=True)
class RetrieveJob:
    """What an embedding actor needs: where the rows are, which embedder, k, and the kind of index.

    `shown` holds the EXAMPLES that may be demonstrations; `embeddings`, where it is made, the pool's vectors.
    """

    step: Step
    pool: Step
    shown: Step
    embedder_path: str
    num_demonstrations: int
    embeddings: Step | None = None
    kind: Kind = "flat"


def retrieve(job: RetrieveJob, on_part: Callable[[int], None]) -> None:
    """Commit DEMONSTRATIONS for every missing part; `on_part` gets the number of rows of each."""
    _in_actor(RetrieveWorker, job, job.step.missing_parts(), on_part)


def embed(step: Step, pool: Step, embedder_path: str, on_part: Callable[[int], None]) -> None:
    """Commit EMBEDDINGS for every missing part, so that later rounds need not embed the pool again."""
    _in_actor(EmbedWorker, (step, pool, embedder_path), step.missing_parts(), on_part)


def write_shown(step: Step, examples: Step, per_label: int) -> None:
    """Commit the EXAMPLES that may be demonstrations: all gold rows, and of each label the surest pseudo-labelled."""
    for _ in map_parts(_write_shown, step.missing_parts(), step=step, examples=examples, per_label=per_label):
        pass


def _in_actor(worker: Any, argument: Any, parts: Sequence[str], on_part: Callable[[int], None]) -> None:
    """Parts to a pool of actors: one a GPU, or one a node with all its CPUs, no more than there is work for."""
    import ray

    items = [{"part": part} for part in parts]
    if not items:
        return
    replicas = place_embedding(cluster_resources(), len(items))
    rows = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        worker,
        fn_constructor_args=(argument,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=replicas.num),
        num_cpus=replicas.cpus_each,
        num_gpus=replicas.gpus_each,
    )
    for row in streamed(rows):
        on_part(int(row["num_rows"]))


class RetrieveWorker:
    """The actor: opens the index of what may be shown, then answers parts."""

    def __init__(self, job: RetrieveJob) -> None:
        self._job, self._name = job, uuid.uuid4().hex
        self._embedder: Embedder = open_embedder(job.embedder_path)
        self._pool = opened(job.step, job.shown, self._embedder, job.kind)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        part, job = str(batch["part"][0]), self._job
        job.step.begin_attempt(part)
        rows = job.pool.read_part(part, schema.UNLABELED)
        queries_QD = self._queries(part, rows)
        table = nearest(rows, queries_QD, self._pool, job.num_demonstrations)
        if job.kind != "flat" and isinstance(self._pool.index, FaissIndex):
            note_recall(job.step, self._pool.index, queries_QD, job.num_demonstrations, self._name)
        job.step.commit_part(part, table)
        return {"num_rows": [table.num_rows]}

    def _queries(self, part: str, rows: pa.Table) -> NDArray[np.float32]:
        """Vectors of a part's questions: those made before where they are, else embedded here."""
        if self._job.embeddings is None or rows.num_rows == 0:
            return self._embedder.embed(rows.column("question").to_pylist())
        table = self._job.embeddings.read_part(part, schema.EMBEDDINGS)
        check_covers(part, (self._job.pool, rows), (self._job.embeddings, table))
        stored = table.column("embedding").combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
        position_of = {row: i for i, row in enumerate(table.column("id").to_pylist())}
        return np.asarray(stored[[position_of[i] for i in rows.column("id").to_pylist()]], dtype=np.float32)


class EmbedWorker:
    """The actor: embeds the questions of parts."""

    def __init__(self, argument: tuple[Step, Step, str]) -> None:
        self._step, self._pool, path = argument
        self._embedder: Embedder = open_embedder(path)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        part = str(batch["part"][0])
        self._step.begin_attempt(part)
        rows = self._pool.read_part(part, schema.UNLABELED)
        vectors = list(self._embedder.embed(rows.column("question").to_pylist()))
        table = pa.Table.from_pydict({"id": rows.column("id"), "embedding": vectors}, schema=schema.EMBEDDINGS)
        self._step.commit_part(part, table)
        return {"num_rows": [table.num_rows]}


def _write_shown(item: dict[str, Any], step: Step, examples: Step, per_label: int) -> dict[str, Any]:
    gold: list[dict[str, Any]] = []
    surest: dict[str, list[dict[str, Any]]] = {}
    for part in examples.parts:
        for row in examples.read_part(part, schema.EXAMPLES).to_pylist():
            if row["source"] == "gold":
                gold.append(row)
                continue
            of_label = surest.setdefault(row["answer"], [])
            of_label.append(row)
            if len(of_label) > 2 * per_label:
                surest[row["answer"]] = sorted(of_label, key=_sureness)[:per_label]
    pseudo = [row for label in sorted(surest) for row in sorted(surest[label], key=_sureness)[:per_label]]
    step.commit_part(item["part"], pa.Table.from_pylist([*gold, *pseudo], schema=schema.EXAMPLES))
    return {"rows": len(gold) + len(pseudo)}


def _sureness(row: dict[str, Any]) -> tuple[float, str]:
    return row["confidence"], row["id"]
