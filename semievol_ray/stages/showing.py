"""Showing: which demonstrations each row of a round's folds sees, as committed steps.

Invariant: what may be shown is D_L and, where asked for, accepted rows marked as pseudo; never dev, validation or test.
"""

from typing import Any

from semievol_ray.engines.faiss import Kind, kind_of
from semievol_ray.runs import Step
from semievol_ray.stages.context import Context
from semievol_ray.stages.counting import commit
from semievol_ray.stages.retrieve import RetrieveJob, embed, retrieve, write_shown
from semievol_ray.stages.shownindex import recall_of, remove_index

GOLD_EXAMPLES = "rounds/0000/examples"


def shown_of(context: Context, number: int, gold: Step, latest: Step) -> Step:
    """The EXAMPLES that round `number` may show: D_L's, or D_L's and the surest of what was accepted before it."""
    retrieval = context.config.method.retrieval
    if number == 1 or retrieval.pool == "labeled":
        return gold
    step = context.step(
        f"rounds/{number:04d}/shown",
        settings={"accepted_per_label": retrieval.accepted_per_label},
        inputs={"examples": latest.digest()},
        parts=["part-00000"],
    )
    if not step.committed():
        assert context.resources
        write_shown(step, latest, retrieval.accepted_per_label)
        context.run.commit(step, {})
    return step


def demonstrations_of(context: Context, number: int, fold: str, rows: Step, whole: Step, shown: Step) -> Step | None:
    """The nearest shown rows of each row; None when no collaborator shows any.

    `fold` is "" for the pool and "dev/" for the dev fold; `rows` are the round's, `whole` those of round 1. While only
    D_L is shown, round 1's demonstrations serve every round.
    """
    method = context.config.method
    if method.num_demonstrations == 0:
        return None
    if method.retrieval.pool == "labeled":
        number, rows = 1, whole
    embedder = context.model(method.embedder)
    kind = kind_of(shown.num_rows(), method.retrieval.index)
    step = context.step(
        f"rounds/{number:04d}/{fold}retrieve",
        settings={"k": method.num_demonstrations, "embedder": embedder.name}
        | ({"index": kind} if kind != "flat" else {}),
        inputs={"shown": shown.digest(), "unlabeled": rows.digest(), "embedder": embedder.digest},
        parts=rows.parts,
    )
    if not step.committed():
        assert context.resources
        vectors = _embeddings(context, fold, whole)
        job = RetrieveJob(step, rows, shown, embedder.reference, method.num_demonstrations, vectors, kind)
        num_left = rows.num_rows(step.missing_parts())
        with context.progress.step(f"round-{number} {fold}retrieve", num_left, done=0) as bar:
            retrieve(job, bar.advance)
        commit(context, step, _found(step, kind))
        remove_index(step)
    return step


def _found(step: Step, kind: Kind) -> dict[str, Any]:
    """The metrics of a retrieval: the kind of its index and, of an approximate one, its recall against exact search."""
    recall = recall_of(step)
    told = {"recall": recall.num_found / recall.num_wanted, "recall_of": recall.num_wanted} if recall else {}
    return {"index": kind, **told}


def _embeddings(context: Context, fold: str, whole: Step) -> Step | None:
    """The pool's vectors, made once where later rounds retrieve anew."""
    method = context.config.method
    if method.rounds.num == 1 or method.retrieval.pool == "labeled":
        return None
    embedder = context.model(method.embedder)
    step = context.step(
        f"data/{'dev_' if fold else ''}embeddings",
        settings={"embedder": embedder.name},
        inputs={"unlabeled": whole.digest(), "embedder": embedder.digest},
        parts=whole.parts,
    )
    if not step.committed():
        with context.progress.step(f"embed {fold or 'pool'}".strip("/"), whole.num_rows(step.missing_parts())) as bar:
            embed(step, whole, embedder.reference, bar.advance)
        commit(context, step, {})
    return step
