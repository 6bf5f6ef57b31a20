"""Near duplicates over real steps; parts are mapped in this process (tests/test_hygiene.py does it with Ray)."""

from collections.abc import Callable
from typing import Any

import pytest

from semievol_ray import schema
from semievol_ray.runs import Run, Step
from semievol_ray.stages import minhash
from semievol_ray.stages.minhash import key_parts, layout_of
from semievol_ray.stages.near_duplicates import KEYS, STEP, exact_only, losing, num_lost, without, write_near_duplicates

LONG = "the {} is a tall tree of the northern woods whose bark was used by people of old for many kinds of small things"
OTHER = "what a person does who walks along the shore of the {} every morning before all the others have woken up there"


pytestmark = pytest.mark.usefixtures("mapped_here")


@pytest.fixture(autouse=True, params=[1, 2048])
def _rows_of_keys(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys of each part apart, and those of all parts together."""
    monkeypatch.setattr(minhash, "ROWS_OF_KEYS", request.param)


def lost_ids(step: Step, split: str) -> set[str]:
    """The ids that a split would lose."""
    parts = [split] if split in step.parts else []
    return {i for part in parts for i in step.read_part(part, schema.NEAR_DUPLICATES).column("id").to_pylist()}


def rows(split: str, *texts: str) -> list[dict[str, Any]]:
    return [{"id": f"{split}-{i}", "question": text, "answer": "tree"} for i, text in enumerate(texts)]


@pytest.fixture
def splits(step_of: Callable[..., Step]) -> dict[str, Step]:
    """Of LONG: one row in test, dev, labeled, and three in the pool, one of them only alike; of OTHER one a split."""
    test = rows("test", LONG.format("birch"), "an oak", OTHER.format("lake"))
    dev = rows("dev", LONG.format("Birch") + "!", "a very different thing that nobody else asks about at all")
    labeled = rows("labeled", LONG.format("birch") + " now", "Elm")
    pool = rows("pool", "an elm", LONG.format("birch") + " ...", OTHER.format("sea"), LONG.format("birch") + " too")
    return {
        "test": step_of("data/test", schema.LABELED, test[:1], test[1:]),
        "dev": step_of("data/dev", schema.UNLABELED, dev),
        "labeled": step_of("data/labeled", schema.LABELED, labeled),
        "unlabeled": step_of("data/unlabeled", schema.UNLABELED, pool[:3], pool[3:]),
    }


@pytest.fixture
def written(run: Run, splits: dict[str, Step]) -> Callable[..., tuple[Step, dict[str, Any]]]:
    def write(similarity: float, only_exact: bool = False) -> tuple[Step, dict[str, Any]]:
        step = run.step(STEP, settings={}, inputs={}, parts=losing(splits))
        keys = run.step(KEYS, settings={}, inputs={}, parts=list(key_parts(layout_of(splits))))
        metrics = write_near_duplicates(step, keys, splits, similarity, only_exact)
        run.commit(step, metrics)
        return step, metrics

    return write


def test_near_duplicates_go_from_the_lower_split_and_never_from_test(written: Callable[..., Any]) -> None:
    step, metrics = written(0.85)

    assert {split: lost_ids(step, split) for split in ("test", "dev", "labeled", "unlabeled")} == {
        "test": set(),
        "dev": {"dev-0"},
        "labeled": {"labeled-0"},
        "unlabeled": {"pool-1", "pool-3"},
    }
    assert metrics["lost"] == {"dev": 1, "labeled": 1, "unlabeled": 2}
    assert metrics["share"] == {"dev": 0.5, "labeled": 0.5, "unlabeled": 0.5}
    assert metrics["pairs"]["test/unlabeled"] == 2
    assert metrics["pairs"]["unlabeled/unlabeled"] == 1
    assert sum(metrics["pairs"].values()) == 10


def test_near_duplicates_are_decided_by_exact_jaccard(written: Callable[..., Any]) -> None:
    step, _ = written(0.99)

    assert sorted(lost_ids(step, "dev") | lost_ids(step, "labeled")) == ["dev-0"]
    assert lost_ids(step, "unlabeled") == {"pool-1"}  # 'now' and 'too' add a shingle


def test_near_duplicates_examples_show_both_texts_from_each_pair_of_splits_first(written: Callable[..., Any]) -> None:
    _, metrics = written(0.85)

    shown = [(e["kept"]["split"], e["lost"]["split"]) for e in metrics["examples"]]
    assert len(shown) == 10
    assert len(set(shown[:6])) == 6
    first = metrics["examples"][0]
    assert first["kept"]["text"].startswith("the birch is a tall")
    assert first["lost"]["text"].startswith("the Birch is a tall")
    assert max(len(e[side]["text"]) for e in metrics["examples"] for side in ("kept", "lost")) <= 160


def test_near_duplicates_above_most_rows_are_texts_of_the_same_words(
    written: Callable[..., Any], splits: dict[str, Step]
) -> None:
    assert (exact_only(splits, 11), exact_only(splits, 10)) == (False, True)

    step, metrics = written(0.3, only_exact=True)

    assert metrics["exact_only"]
    assert metrics["similarity"] == 1.0
    assert [sorted(lost_ids(step, split)) for split in step.parts] == [["dev-0"], [], ["pool-1"]]


def test_rows_that_go_are_left_out_of_the_copied_parts(
    written: Callable[..., Any], run: Run, splits: dict[str, Step]
) -> None:
    near, _ = written(0.85)
    step = run.step("data/unlabeled_kept", settings={}, inputs={}, parts=splits["unlabeled"].parts)

    assert num_lost(near, "unlabeled") == 2
    without(step, splits["unlabeled"], schema.UNLABELED, near, "unlabeled")

    left = [step.read_part(part, schema.UNLABELED).column("id").to_pylist() for part in step.parts]
    assert left == [["pool-0", "pool-2"], []]
