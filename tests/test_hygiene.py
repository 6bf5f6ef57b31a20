"""A scripted run of two rounds with dev, validation and test folds: held-out rows are shown and learnt nowhere."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from semievol_ray import configfile, driver, schema
from semievol_ray.core.identity import normalise
from semievol_ray.engines.scripted import HashEmbedder
from semievol_ray.progress import Progress
from semievol_ray.runs import Step
from tests.conftest import KINDS, run_here, write_config, write_rows

NUM_LABELED, HELD_OUT = 48, 12


@dataclass(frozen=True)
class Held:
    """A finished run, its questions by split, and id -> (split, question) of all rows that are held out."""

    root: Path
    labeled_file: list[str]
    out: Mapping[str, tuple[str, str]]


def rows(root: Path, name: str, columns: pa.Schema) -> list[dict[str, Any]]:
    path = f"{root}/{name}"
    step = Step(path, name, tuple(json.loads(Path(path, "step.json").read_text())["parts"]))
    return [row for part in step.parts for row in step.read_part(part, columns).to_pylist()]


def steps(root: Path, last: str) -> list[str]:
    """The names of all steps whose folder is called `last`."""
    return sorted(str(path.parent.relative_to(root)) for path in root.rglob("step.json") if path.parent.name == last)


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Held:
    """Every pool question is worded as a labeled or a test one, so that a held-out row would be the nearest to show."""
    folder = tmp_path_factory.mktemp("hygiene")
    labeled = [f"a thing called {i * 7919} [{KINDS[i % 3]}]" for i in range(NUM_LABELED)]
    test = [f"one more thing called {i * 104729} [{KINDS[i % 3]}]" for i in range(HELD_OUT)]
    collaborators = [{"demonstrations": 3}, {"adapter": "warm", "demonstrations": 1}]
    config = write_config(
        folder,
        method={
            "embedder": "hash",
            "collaborators": collaborators,
            "rounds": 2,
            "retrieval": {"pool": "labeled+accepted"},
        },
        data={
            **{split: f"{split}.csv" for split in ("labeled", "unlabeled", "test")},
            "dev": HELD_OUT,
            "validation": HELD_OUT,
        },
    )
    write_rows(folder / "labeled.csv", [*labeled, *test[:3]], answers=True)
    write_rows(folder / "test.csv", test, answers=True)
    write_rows(folder / "unlabeled.csv", [f"{q[:-1]} ]" for q in labeled + test] + labeled[:6] + test[:6], answers=True)
    root = folder / "run"
    with pytest.MonkeyPatch.context() as patch:
        run_here(patch)
        driver.run(configfile.load(str(config)), str(root), Progress(quiet=True))
    out = {
        row["id"]: (split, row["question"])
        for split in ("dev", "validation", "test")
        for row in rows(root, f"data/{split}", schema.UNLABELED if split == "dev" else schema.LABELED)
    }
    with (folder / "labeled.csv").open() as file:
        return Held(root, [row["question"] for row in csv.DictReader(file)], out)


def test_folds_are_held_out_of_the_labels(held: Held) -> None:
    kept = {row["id"] for row in rows(held.root, "data/labeled", schema.LABELED)}

    assert kept & held.out.keys() == set()
    assert [split for split, _ in held.out.values()].count("dev") == HELD_OUT
    assert len(kept) == NUM_LABELED - 2 * HELD_OUT


def test_no_demonstration_is_a_dev_validation_or_test_row(held: Held) -> None:
    labeled = {row["id"]: row["question"] for row in rows(held.root, "data/labeled", schema.LABELED)}
    pool = {row["id"]: row["question"] for row in rows(held.root, "data/unlabeled", schema.UNLABELED)}
    forbidden = {normalise(question) for _, question in held.out.values()}

    assert len(steps(held.root, "retrieve")) == 4  # the pool's and the dev fold's, in two rounds
    for name in steps(held.root, "retrieve"):
        shown = [i for row in rows(held.root, name, schema.DEMONSTRATIONS) for i in row["demonstration_ids"]]
        assert shown, name
        assert {held.out[i][0] for i in shown if i in held.out} == set(), name
        assert set(shown) <= labeled.keys() | pool.keys(), name
        assert {normalise((labeled | pool)[i]) for i in shown} & forbidden == set(), name


def test_a_held_out_row_would_have_been_the_nearest_to_show(held: Held) -> None:
    """The test above has teeth: over the labeled file as it was given, many a pool row's nearest is held out."""
    pool = [row["question"] for row in rows(held.root, "data/unlabeled", schema.UNLABELED)]
    forbidden = {normalise(question) for _, question in held.out.values()}
    embedder = HashEmbedder()

    nearest = np.argmax(embedder.embed(pool) @ embedder.embed(held.labeled_file).T, axis=1)

    assert sum(normalise(held.labeled_file[i]) in forbidden for i in nearest) > HELD_OUT


def test_no_fine_tuning_learns_from_a_dev_validation_or_test_row(held: Held) -> None:
    forbidden = {normalise(question) for _, question in held.out.values()}

    assert len(steps(held.root, "examples")) == 3
    for name in steps(held.root, "examples"):
        examples = rows(held.root, name, schema.EXAMPLES)
        assert {row["id"] for row in examples} & held.out.keys() == set(), name
        assert {normalise(row["question"]) for row in examples} & forbidden == set(), name


def test_no_held_out_row_is_answered_as_a_pool_row(held: Held) -> None:
    for name in steps(held.root, "justify"):
        answered = {row["id"] for row in rows(held.root, name, schema.JUSTIFIED)}
        folds = {held.out[i][0] for i in answered if i in held.out}
        assert folds == ({"dev"} if "/dev/" in name else set()), name


def test_near_duplicates_of_held_out_rows_are_reported(held: Held) -> None:
    """Every pool row is one of the other splits' with one blank more."""
    pool = rows(held.root, "data/unlabeled", schema.UNLABELED)
    record = json.loads((held.root / "data/near_duplicates/step.json").read_text())

    metrics = record["committed"]["metrics"]
    assert metrics["lost"] == {"validation": 0, "dev": 0, "labeled": 0, "unlabeled": len(pool)}
    assert metrics["pairs"]["test/unlabeled"] == HELD_OUT
    assert sum(metrics["pairs"].values()) == len(pool) == NUM_LABELED + HELD_OUT
