"""Which demonstrations a round's folds see: of D_L, of what was accepted, and never of what is held out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from semievol_ray import schema
from semievol_ray.runs import Step
from semievol_ray.stages.context import Context
from semievol_ray.stages.showing import demonstrations_of, shown_of

StepOf = Callable[..., Step]
ContextOf = Callable[..., Context]
ACCEPTED = {"pool": "labeled+accepted", "accepted_per_label": 1}


@pytest.fixture(autouse=True)
def worked(monkeypatch: pytest.MonkeyPatch, mapped_here: None) -> list[tuple[str, int]]:  # noqa: ARG001
    """Actors work in this process; which were started, and for how many parts."""
    started = []

    def in_actor(worker: Any, argument: Any, parts: Any, on_part: Any) -> None:
        started.append((worker.__name__, len(parts)))
        made = worker(argument)
        for part in parts:
            on_part(made({"part": [part]})["num_rows"][0])

    monkeypatch.setattr("semievol_ray.stages.retrieve._in_actor", in_actor)
    return started


@pytest.fixture
def latest(step_of: StepOf, shown: Step) -> Step:
    """EXAMPLES after a round that accepted r0, r1 and r3; of the two foods r1 is surer."""
    gold = [row for part in shown.parts for row in shown.read_part(part, schema.EXAMPLES).to_pylist()]
    kept = [("r0", "food", 0.5), ("r1", "food", 0.25), ("r3", "plant", 0.75)]
    pseudo = [
        {"id": i, "question": f"thing number {i[1]}", "answer": a, "source": "pseudo", "confidence": h, "round": 1}
        for i, a, h in kept
    ]
    return step_of("rounds/0001/examples", schema.EXAMPLES, gold, pseudo)


def _context(context_of: ContextOf, **retrieval: Any) -> Context:
    collaborators = [{"demonstrations": 3}, {"demonstrations": 0}]
    method = {"rounds": 3, "embedder": "hash", "collaborators": collaborators, "retrieval": retrieval}
    return context_of(method=method)


def _rows(step: Step | None) -> dict[str, dict[str, Any]]:
    assert step is not None
    tables = [step.read_part(part, schema.DEMONSTRATIONS) for part in step.parts]
    return {row["id"]: row for table in tables for row in table.to_pylist()}


def test_shown_is_the_labels_alone_unless_accepted_rows_are_asked_for(
    context_of: ContextOf, shown: Step, latest: Step
) -> None:
    assert shown_of(_context(context_of), 2, shown, latest) is shown
    assert shown_of(_context(context_of, **ACCEPTED), 1, shown, shown) is shown


def test_shown_has_the_surest_accepted_rows_of_each_label_after_round_one(
    context_of: ContextOf, shown: Step, latest: Step
) -> None:
    step = shown_of(_context(context_of, **ACCEPTED), 2, shown, latest)
    rows = step.read_part("part-00000", schema.EXAMPLES).to_pylist()
    assert [(row["id"], row["source"]) for row in rows] == [
        *((f"l{i}", "gold") for i in range(4)), ("r1", "pseudo"), ("r3", "pseudo"),
    ]  # fmt: skip


def test_demonstrations_of_round_one_serve_every_round_while_the_labels_alone_are_shown(
    context_of: ContextOf, pool: Step, shown: Step, step_of: StepOf
) -> None:
    context = _context(context_of)
    left = step_of("rounds/0002/pool", schema.UNLABELED, [{"id": "r0", "question": "thing number 0"}], [])
    first = demonstrations_of(context, 1, "", pool, pool, shown)
    assert demonstrations_of(context, 2, "", left, pool, shown) == first
    assert set(_rows(first)) == {f"r{i}" for i in range(5)}


def test_demonstrations_are_retrieved_anew_and_marked_where_accepted_rows_are_shown(
    context_of: ContextOf, pool: Step, shown: Step, latest: Step, step_of: StepOf
) -> None:
    context = _context(context_of, **ACCEPTED)
    assert set(_rows(demonstrations_of(context, 1, "", pool, pool, shown))["r2"]["sources"]) == {"gold"}
    asked = [{"id": "r2", "question": "thing number 2"}]
    left = step_of("rounds/0002/pool", schema.UNLABELED, asked, [{"id": "r4", "question": "thing number 4"}])
    found = _rows(demonstrations_of(context, 2, "", left, pool, shown_of(context, 2, shown, latest)))
    assert set(found) == {"r2", "r4"}
    for row in found.values():
        sources = dict(zip(row["demonstration_ids"], row["sources"], strict=True))
        assert sources == {i: "pseudo" if i.startswith("r") else "gold" for i in sources}
        assert {"r1", "r3"} < set(sources)  # their words are nearer than those of labeled things


def test_pool_is_embedded_once_for_all_rounds(
    context_of: ContextOf, pool: Step, shown: Step, latest: Step, worked: list[tuple[str, int]]
) -> None:
    context = _context(context_of, **ACCEPTED)
    demonstrations_of(context, 1, "", pool, pool, shown)
    demonstrations_of(context, 2, "", pool, pool, shown_of(context, 2, shown, latest))
    assert worked == [("EmbedWorker", 2), ("RetrieveWorker", 2), ("RetrieveWorker", 2)]


def test_no_collaborator_with_demonstrations_needs_no_retrieval(context_of: ContextOf, pool: Step, shown: Step) -> None:
    context = context_of(method={"collaborators": [{}]})
    assert demonstrations_of(context, 1, "", pool, pool, shown) is None


def test_approximate_index_is_in_the_fingerprint_its_recall_in_the_metrics_and_its_file_gone(
    context_of: ContextOf, pool: Step, shown: Step
) -> None:
    step = demonstrations_of(_context(context_of, index="hnsw"), 1, "", pool, pool, shown)
    assert step is not None
    assert step.record()["settings"]["index"] == "hnsw"
    metrics = (step.committed() or {})["metrics"]
    assert (metrics["index"], metrics["recall"]) == ("hnsw", 1.0)
    assert not Path(step.path, "index").exists()
    exact = demonstrations_of(_context(context_of), 1, "dev/", pool, pool, shown)
    assert exact is not None
    assert "index" not in exact.record()["settings"]
    for row, best in _rows(exact).items():
        assert _rows(step)[row]["scores"] == pytest.approx(best["scores"])
