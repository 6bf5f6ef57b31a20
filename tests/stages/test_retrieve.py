"""Retrieval with the hash embedder, against numpy over the same vectors; and what may be shown."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from semievol_ray import schema
from semievol_ray.core.knn import top_k
from semievol_ray.engines.embed import HASH, open_embedder
from semievol_ray.runs import Step
from semievol_ray.stages import shownindex
from semievol_ray.stages.neighbours import nearest
from semievol_ray.stages.retrieve import EmbedWorker, RetrieveJob, RetrieveWorker, write_shown

WORDS = ["red", "green", "tall", "old", "small", "wet", "dry", "hot", "cold", "tree", "cat", "stone", "soup", "river"]
StepOf = Callable[..., Step]


def _texts(num: int, seed: int) -> list[str]:
    numbers = np.random.default_rng(seed)
    return [" ".join(numbers.choice(WORDS, size=5)) + f" {i}x{seed}" for i in range(num)]


def _rows(questions: Sequence[str], stem: str) -> list[dict[str, Any]]:
    return [{"id": f"{stem}{i}", "question": q, "answer": "plant", "source": "gold"} for i, q in enumerate(questions)]


def _pool_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"num_copies": 1, "id": row["id"], "question": row["question"]} for row in rows]


def _nearest(rows: Sequence[dict[str, Any]], shown: Step, k: int) -> list[dict[str, Any]]:
    embedder = open_embedder(HASH)
    full = [dict.fromkeys(schema.UNLABELED.names) | row for row in _pool_rows(rows)]
    table = pa.Table.from_pylist(full, schema=schema.UNLABELED)
    queries_QD = embedder.embed([row["question"] for row in rows])
    pool = shownindex.opened(shown, shown, embedder, "flat")  # of so few rows nothing is written beside the step
    found: list[dict[str, Any]] = nearest(table, queries_QD, pool, k).to_pylist()
    return found


@pytest.mark.parametrize("k", [1, 3, 50])
def test_nearest_are_those_of_exact_search(k: int, step_of: StepOf) -> None:
    embedder, questions, asked = open_embedder(HASH), _texts(20, 1), _texts(9, 2)
    rows = _rows(questions, "l")
    found = _nearest(_rows(asked, "u"), step_of("examples", schema.EXAMPLES, rows[:11], rows[11:]), k)
    scores_Qk, indices_Qk = top_k(embedder.embed(asked), embedder.embed(questions), k)
    assert [row["id"] for row in found] == [f"u{i}" for i in range(9)]
    for row, scores, indices in zip(found, scores_Qk, indices_Qk, strict=True):
        assert row["scores"] == pytest.approx(scores.tolist(), abs=1e-6)
        assert row["scores"] == sorted(row["scores"], reverse=True)
        by_id = {
            f"l{i}": float(embedder.embed([questions[i]])[0] @ embedder.embed([asked[int(row["id"][1:])]])[0])
            for i in range(20)
        }
        assert row["scores"] == pytest.approx([by_id[i] for i in row["demonstration_ids"]], abs=1e-6)
        assert len(set(row["demonstration_ids"])) == len(indices)


def test_row_never_retrieves_its_own_question_and_still_gets_k(step_of: StepOf) -> None:
    others = _texts(6, 3)
    shown = step_of("examples", schema.EXAMPLES, _rows(["an old  tree", *others, "an old tree", "an\told tree "], "l"))
    found = _nearest([{"id": "u", "question": "an old tree"}, {"id": "l2", "question": others[1] + "!"}], shown, 3)
    assert len(found[0]["demonstration_ids"]) == len(found[1]["demonstration_ids"]) == 3
    assert not {"l0", "l7", "l8"} & set(found[0]["demonstration_ids"])
    assert "l2" not in found[1]["demonstration_ids"]


def test_row_gets_fewer_where_the_labels_are_fewer(step_of: StepOf) -> None:
    shown = step_of("examples", schema.EXAMPLES, _rows(["a cat", "a tree"], "l"))
    assert _nearest(_rows(["a cat"], "u"), shown, 3)[0]["demonstration_ids"] == ["l1"]


def test_accepted_row_that_is_shown_is_marked_as_pseudo(step_of: StepOf) -> None:
    accepted = {"id": "p", "question": "a red stone", "answer": "food", "source": "pseudo"}
    shown = step_of("examples", schema.EXAMPLES, _rows(["a tall tree"], "l"), [accepted])
    (found,) = _nearest([{"id": "u", "question": "one red stone"}], shown, 2)
    assert dict(zip(found["demonstration_ids"], found["sources"], strict=True)) == {"p": "pseudo", "l0": "gold"}


@pytest.mark.usefixtures("mapped_here")
def test_shown_are_all_gold_rows_and_the_surest_accepted_of_each_label(step_of: StepOf, begun: StepOf) -> None:
    accepted = [
        {"id": f"p{i:02d}", "answer": "food" if i % 3 else "plant", "source": "pseudo", "confidence": (7 * i) % 20 / 8}
        for i in range(30)
    ]
    examples = step_of("examples", schema.EXAMPLES, _rows(["a", "b", "c"], "l"), accepted[:17], accepted[17:])
    step = begun("shown", ["part-00000"])
    write_shown(step, examples, 4)
    rows = step.read_part("part-00000", schema.EXAMPLES).to_pylist()
    assert [row["id"] for row in rows if row["source"] == "gold"] == ["l0", "l1", "l2"]
    for label in ("food", "plant"):
        of_label = sorted((a["confidence"], a["id"]) for a in accepted if a["answer"] == label)
        assert [r["id"] for r in rows if r["source"] == "pseudo" and r["answer"] == label] == [
            i for _, i in of_label[:4]
        ]


def test_vectors_made_before_give_what_embedding_anew_gives(step_of: StepOf, begun: StepOf) -> None:
    pool_rows = _pool_rows(_rows(_texts(7, 5), "u"))
    whole = step_of("whole", schema.UNLABELED, pool_rows[:4], pool_rows[4:])
    left = step_of("left", schema.UNLABELED, [pool_rows[3], pool_rows[1]], [])
    shown = step_of("examples", schema.EXAMPLES, _rows(_texts(12, 6), "l"))
    vectors = begun("embeddings", whole.parts)
    for part in whole.parts:
        EmbedWorker((vectors, whole, HASH))({"part": [part]})
    found = []
    for name, embeddings in (("anew", None), ("reused", vectors)):
        worker = RetrieveWorker(RetrieveJob(begun(name, left.parts), left, shown, HASH, 3, embeddings))
        assert [worker({"part": [part]})["num_rows"] for part in left.parts] == [[2], [0]]
        found.append(Path(begun(name, left.parts).part_path("part-00000")).read_bytes())
    assert found[0] == found[1]


def test_index_is_made_once_mapped_by_all_workers_and_its_recall_noted(
    step_of: StepOf, begun: StepOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SEMIEVOL_CACHE", str(tmp_path / "cache"))
    pool_rows = _pool_rows(_rows(_texts(30, 5), "u"))
    pool = step_of("pool", schema.UNLABELED, pool_rows[:10], pool_rows[10:])
    shown = step_of("examples", schema.EXAMPLES, _rows(_texts(200, 6), "l"))
    made: list[str] = []
    write = shownindex.write_index
    monkeypatch.setattr(shownindex, "write_index", lambda *told: (made.append(told[2]), write(*told)))
    step = begun("approximate", pool.parts)
    for part in pool.parts:  # a worker each
        assert RetrieveWorker(RetrieveJob(step, pool, shown, HASH, 3, kind="ivf"))({"part": [part]})
    assert len(made) == 1
    recall = shownindex.recall_of(step)
    assert recall is not None
    assert recall.num_wanted == 30 * 3
    assert 0.3 < recall.num_found / recall.num_wanted <= 1
    notes = sorted(Path(step.path, "index", "recalls").iterdir())
    assert len(notes) == len(pool.parts)  # of a worker each: appends of several machines to one file tear its lines
    with notes[0].open("a") as file:
        file.write("[1, ")  # a worker that was killed in the middle of a line, or a full disk
    assert shownindex.recall_of(step) == recall
    exact = begun("exact", pool.parts)
    exactly = RetrieveWorker(RetrieveJob(exact, pool, shown, HASH, 3))
    found = 0
    for part in pool.parts:
        exactly({"part": [part]})
        mine, best = (of.read_part(part, schema.DEMONSTRATIONS).column("scores").to_pylist() for of in (step, exact))
        found += sum(score >= b[-1] - 1e-6 for m, b in zip(mine, best, strict=True) for score in m)
    assert found == recall.num_found
    shownindex.remove_index(step)
    assert shownindex.recall_of(step) is None
    assert not Path(step.path, "index").exists()


def test_file_made_by_another_machine_meanwhile_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMIEVOL_CACHE", str(tmp_path / "cache"))
    folder = str(tmp_path / "index")

    def make(path: str) -> None:
        Path(folder).mkdir()
        Path(folder, "file").write_text("theirs")
        Path(path).write_text("ours")

    assert Path(shownindex.made_once(folder, "file", make)).read_text() == "theirs"


def test_index_of_a_run_in_an_object_store_is_made_once_and_copied_to_the_machine(s3_root: str) -> None:
    made: list[str] = []

    def make(path: str) -> None:
        made.append(path)
        Path(path).write_bytes(b"index")

    paths = [shownindex.made_once(f"{s3_root}/retrieve/index", "index.faiss", make) for _ in range(2)]
    assert len(made) == 1
    assert paths[0] == paths[1]
    assert Path(paths[0]).read_bytes() == b"index"
