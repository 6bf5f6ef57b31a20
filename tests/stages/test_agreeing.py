"""A task whose answers agree by similarity: votes, predictions, dev rows and the audit all compare them so."""

import csv
from pathlib import Path
from typing import Any

import pytest

from semievol_ray import schema
from semievol_ray.core.answers import Free
from semievol_ray.engines.scripted import HashEmbedder
from semievol_ray.explain import explain
from semievol_ray.stages.agreeing import equality
from semievol_ray.stages.evaluate import known_right
from semievol_ray.tasks import Task
from tests.rundirs import do_run, metrics_of, rows_of, run_tree, step_at

TASK = Task("things", "Say what it is.", Free(0.6), max_tokens=16)
WORDS = ("person", "animal", "plant", "food")


def test_answers_agree_by_their_embeddings_where_there_is_an_embedder() -> None:
    given = ["plant thing", "plant", None, "stone"]
    by_text, by_vector = equality(TASK, None, given), equality(TASK, "hash", given)
    assert [equal("plant", "plant thing") for equal in (by_text, by_vector)] == [False, True]
    assert not by_vector("stone", "plant")
    assert known_right(given, ["plant", "plant thing", "plant", None], TASK, "hash") == [True, True, False, False]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose gold answers are the words that the scripted engine answers with, and another word."""
    from tests.conftest import run_here

    folder = tmp_path_factory.mktemp("free")
    tree = run_tree(folder, labeled=40, unlabeled=32, test=16)
    for name in ("labeled", "unlabeled", "test"):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            rows = [(f"{name} thing {i} [{WORDS[i % 4]}]", f"{WORDS[i % 4]} thing") for i in range(40)]
            csv.writer(file).writerows([("question", "answer"), *rows])
    tree["task"] = {"name": "things", "kind": "free", "similarity": 0.6, "instruction": "Say what it is."}
    tree["data"] |= {"dev": 24}
    tree["method"] |= {"select": {"rule": "fdr", "target_error": 0.5}}
    with pytest.MonkeyPatch.context() as patch:
        run_here(patch)
        do_run(tree, folder / "run")
    return folder / "run"


def _num_right(rows: list[dict[str, Any]], answer: str) -> int:
    """The rows whose answer is near the gold one, written out; no answer and its gold one are the same text here."""
    pairs = [HashEmbedder().embed([row[answer], row["gold"]]) for row in rows if row[answer] is not None]
    return sum(float(a @ b) >= 0.6 for a, b in pairs)


def test_predictions_are_right_by_similarity(root: Path) -> None:
    rows = rows_of(root, "rounds/0001/evaluate", schema.PREDICTIONS)
    assert metrics_of(root, "rounds/0001/evaluate")["accuracy"] == _num_right(rows, "answer") / len(rows) > 0.4
    assert "embedder" in step_at(root, "rounds/0001/evaluate").record()["inputs"]


def test_pseudo_labels_and_drafts_are_judged_by_similarity(root: Path) -> None:
    gold = {row["id"]: row["answer"] for row in rows_of(root, "data/gold", schema.GOLD)}
    rows = [{**row, "gold": gold[row["id"]]} for row in rows_of(root, "rounds/0001/justify", schema.JUSTIFIED)]
    metrics = metrics_of(root, "rounds/0001/select")
    assert metrics["precision_all"] == pytest.approx(_num_right(rows, "label") / len(rows))
    assert metrics["precision_all"] > 0.4
    for number, drafted in enumerate(metrics["audit"]["collaborators"]["answers"]):
        own = [{"answer": row["answers"][number], "gold": row["gold"]} for row in rows]
        assert drafted["right"] == _num_right(own, "answer") > 0


def test_dev_rows_that_set_the_threshold_are_judged_by_similarity(root: Path) -> None:
    gold = {row["id"]: row["answer"] for row in rows_of(root, "data/dev_gold", schema.GOLD)}
    rows = [{**row, "gold": gold[row["id"]]} for row in rows_of(root, "rounds/0001/dev/justify", schema.JUSTIFIED)]
    known = [row for row in rows if row["confidence"] is not None]
    metrics = metrics_of(root, "rounds/0001/select")
    assert metrics["cuts"]["certificate"]["num_dev_wrong"] == len(known) - _num_right(known, "label") < 12
    assert metrics["dev_right"] > 0


def test_explain_leaves_what_agrees_by_similarity_to_the_figures(root: Path) -> None:
    rows = rows_of(root, "rounds/0001/select", schema.SELECTION)
    row = next(row for row in rows if row["label"] in WORDS)
    told = " ".join(explain(str(root), row["id"]).split())
    assert f"label {row['label']}; the gold answer is " in told
    assert " is wrong" not in told
