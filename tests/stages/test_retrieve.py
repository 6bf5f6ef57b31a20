"""Retrieval with the hash embedder, against numpy over the same vectors."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pytest

from semievol_ray import schema
from semievol_ray.core.knn import top_k
from semievol_ray.engines.embed import HASH, open_embedder
from semievol_ray.runs import Step
from semievol_ray.stages.retrieve import index_labeled, nearest

WORDS = ["red", "green", "tall", "old", "small", "wet", "dry", "hot", "cold", "tree", "cat", "stone", "soup", "river"]


def _texts(num: int, seed: int) -> list[str]:
    numbers = np.random.default_rng(seed)
    return [" ".join(numbers.choice(WORDS, size=5)) + f" {i}x{seed}" for i in range(num)]


def _rows(questions: Sequence[str], stem: str) -> list[dict[str, str]]:
    return [{"id": f"{stem}{i}", "question": q, "answer": "plant"} for i, q in enumerate(questions)]


def _pool_table(rows: Sequence[dict[str, str]]) -> pa.Table:
    full = [{"options": None, "group": None, "num_copies": 1, "id": r["id"], "question": r["question"]} for r in rows]
    return pa.Table.from_pylist(full, schema=schema.UNLABELED)


@pytest.mark.parametrize("k", [1, 3, 50])
def test_nearest_are_those_of_exact_search(k: int, step_of: Callable[..., Step]) -> None:
    embedder, questions, asked = open_embedder(HASH), _texts(20, 1), _texts(9, 2)
    rows = _rows(questions, "l")
    labeled = step_of("data/labeled", schema.LABELED, rows[:11], rows[11:])
    found = nearest(_pool_table(_rows(asked, "u")), index_labeled(labeled, embedder), embedder, k).to_pylist()
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


def test_row_never_retrieves_its_own_question_and_still_gets_k(step_of: Callable[..., Step]) -> None:
    embedder = open_embedder(HASH)
    others = _texts(6, 3)
    labeled = step_of(
        "data/labeled", schema.LABELED, _rows(["an old  tree", *others, "an old tree", "an\told tree "], "l")
    )
    found = nearest(
        _pool_table([{"id": "u", "question": "an old tree"}, {"id": "l2", "question": others[1] + "!"}]),
        index_labeled(labeled, embedder), embedder, 3,
    ).to_pylist()  # fmt: skip
    assert len(found[0]["demonstration_ids"]) == len(found[1]["demonstration_ids"]) == 3
    assert not {"l0", "l7", "l8"} & set(found[0]["demonstration_ids"])
    assert "l2" not in found[1]["demonstration_ids"]


def test_row_gets_fewer_where_the_labels_are_fewer(step_of: Callable[..., Step]) -> None:
    embedder = open_embedder(HASH)
    labeled = step_of("data/labeled", schema.LABELED, _rows(["a cat", "a tree"], "l"))
    found = nearest(_pool_table(_rows(["a cat"], "u")), index_labeled(labeled, embedder), embedder, 3).to_pylist()
    assert found[0]["demonstration_ids"] == ["l1"]
