"""The models a study holds SemiEvol against, made in this process: what they learn from, and under which settings."""

from pathlib import Path
from typing import Any

import pytest

from semievol_ray import configfile, schema, summary
from semievol_ray.report import write_report
from semievol_ray.runs import Step, read_manifest, read_steps
from semievol_ray.study.cell import Cell, make
from semievol_ray.study.file import Variant
from semievol_ray.study.result import read_result
from semievol_ray.study.variants import BUILT_IN, varied
from tests.conftest import questions, write_config, write_rows

LONG = "the {} is a tall tree of the northern woods whose bark was used by people of old for many small things [plant]"

pytestmark = pytest.mark.usefixtures("without_ray")


def _cell(folder: Path, name: str, **changes: Any) -> Cell:
    """A built-in variant of a small study in `folder`, whose data files lie there already."""
    base = varied(configfile.load(str(folder / "run.yaml")), changes, "test")
    config = varied(base, BUILT_IN[name].changes(base), "test")
    return Cell(Variant(name, BUILT_IN[name].making, config, "sft"), 0, str(folder / "runs"))


def _write(folder: Path, **changes: Any) -> None:
    drafters = [{"adapter": "warm"}, {"demonstrations": 1}]
    data = {split: f"{split}.csv" for split in ("labeled", "unlabeled", "test")}
    method = {"embedder": "hash", "collaborators": drafters}
    write_config(folder, **{"method": method, "report_to": [], "data": data, **changes})


def _ids(cell: Cell, name: str) -> set[str]:
    """The ids of a committed step of EXAMPLES."""
    record = dict(read_steps(cell.root))[name]
    assert record["committed"]
    step = Step(f"{cell.root}/{name}", name, tuple(record["parts"]))
    return {i for part in step.parts for i in step.read_part(part, schema.EXAMPLES, ["id"]).column("id").to_pylist()}


def test_result_knows_which_question_every_row_of_the_test_split_asks(tmp_path: Path) -> None:
    _write(tmp_path)
    write_rows(tmp_path / "test.csv", ["an oak [plant]", "a cow [animal]", "an oak [plant]"], answers=True)
    make(cell := _cell(tmp_path, "sft"))
    found = read_result("sft", 0, cell.root, "rounds/0000/evaluate")
    assert len(found.questions) == len(found.correct) == 3
    assert found.questions[0] == found.questions[2] != found.questions[1]


def _shared(cell: Cell) -> set[str]:
    return {name for name, r in read_steps(cell.root) if "shared_from" in (r.get("committed") or {})}


def test_near_duplicates_that_semievol_leaves_out_teach_no_reference_either(tmp_path: Path) -> None:
    _write(tmp_path)
    write_rows(tmp_path / "labeled.csv", [*questions(24, "labeled"), LONG.format("birch")], answers=True)
    write_rows(tmp_path / "unlabeled.csv", [*questions(64, "pool"), LONG.format("Birch,")], answers=True)
    write_rows(tmp_path / "test.csv", [*questions(32, "test"), LONG.format("birch;")], answers=True)
    drop = {"data.near_duplicates": {"action": "drop", "similarity": 0.85}}
    cells = {name: _cell(tmp_path, name, **drop) for name in ("sft", "semievol", "sft_matched", "oracle")}
    for cell in cells.values():
        make(cell)

    labels = _ids(cells["semievol"], "rounds/0000/examples")
    lost = dict(read_steps(cells["semievol"].root))["data/near_duplicates"]["committed"]["metrics"]["lost"]
    assert (lost["labeled"], lost["unlabeled"]) == (1, 1)
    assert len(labels) == 24
    assert _ids(cells["sft"], "rounds/0000/examples") == labels
    assert _ids(cells["sft_matched"], "rounds/0000/examples") == labels
    assert len(_ids(cells["oracle"], "oracle/examples") - labels) == 64
    assert {"data/near_duplicates", "data/distinct/labeled", "rounds/0000/train"} <= _shared(cells["semievol"])


@pytest.fixture
def adapter(tmp_path: Path) -> str:
    """An adapter that was fine-tuned elsewhere, on other labels."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    _write(elsewhere)
    write_rows(elsewhere / "labeled.csv", questions(8, "other"), answers=True)
    make(cell := _cell(elsewhere, "sft"))
    return f"{cell.root}/rounds/0000/train/adapter"


def test_matched_variant_takes_all_steps_of_semievol_and_is_validated_as_often(tmp_path: Path) -> None:
    _write(tmp_path)
    early = {"data.validation": 4, "train.early_stopping": {"patience": 1, "min_delta": 0.1}}
    cells = {name: _cell(tmp_path, name, **early) for name in ("semievol", "sft_matched")}
    for cell in cells.values():
        make(cell)

    semievol, ours = (dict(read_steps(cell.root)) for cell in cells.values())
    handed_over = f"rounds/{read_manifest(cells['semievol'].root)['final']['round']:04d}"
    taken = semievol[f"{handed_over}/train"]["committed"]["metrics"]["num_steps"]
    num_examples = semievol[f"{handed_over}/examples"]["committed"]["num_rows"]
    settings = ours["sft_matched/train"]["settings"]["train"]
    assert settings["max_steps"] == taken
    assert settings["early_stopping"] == {
        "patience": taken, "eval_steps": -(-num_examples // settings["train_batch_size"]), "min_delta": 0.1
    }  # fmt: skip
    assert semievol["rounds/0001/train"]["settings"]["train"]["early_stopping"]["patience"] == 1


def test_labels_alone_are_learned_whatever_the_rounds_begin_with(tmp_path: Path, adapter: str) -> None:
    _write(tmp_path)
    cells = {name: _cell(tmp_path, name, **{"method.warm_adapter": adapter}) for name in ("sft", "semievol")}
    for cell in cells.values():
        make(cell)

    sft, semievol = (dict(read_steps(cell.root)) for cell in cells.values())
    learned = sft["rounds/0000/train"]
    assert "imported" not in learned["settings"]
    assert learned["inputs"]["examples"] == sft["rounds/0000/examples"]["committed"]["digest"]
    assert semievol["rounds/0000/train"]["settings"] == {"imported": True}
    assert {"rounds/0000/train", "rounds/0000/evaluate"}.isdisjoint(_shared(cells["semievol"]))
    assert summary.summarise(cells["sft"].root).first == summary.LABELS_ONLY


def test_run_that_began_with_an_imported_adapter_is_not_said_to_have_begun_with_labels(
    tmp_path: Path, adapter: str
) -> None:
    _write(tmp_path)
    make(cell := _cell(tmp_path, "semievol", **{"method.warm_adapter": adapter}))
    found = summary.summarise(cell.root)
    told = summary.render(found), Path(write_report(cell.root)).read_text(encoding="utf-8")

    assert [a.model for a in found.accuracies] == [summary.UNTOUCHED, summary.IMPORTED, summary.SEMIEVOL]
    assert found.gain is not None
    assert found.gain.value == pytest.approx(found.accuracies[2].accuracy.value - found.accuracies[1].accuracy.value)
    assert "SemiEvol - imported adapter:" in told[0]
    assert "SemiEvol − imported adapter:" in told[1]
    assert not any("labels only" in text for text in told)


def test_base_without_a_warm_up_has_its_labels_only_model_and_its_warm_variants(tmp_path: Path) -> None:
    _write(tmp_path)
    own = {"method.warm_up": False, "method.collaborators": [{"demonstrations": 1}, {}]}
    cells = {name: _cell(tmp_path, name, **own) for name in ("sft", "naive", "semievol")}
    for cell in cells.values():
        make(cell)

    sft, naive, semievol = (dict(read_steps(cell.root)) for cell in cells.values())
    assert sft["rounds/0000/evaluate"]["inputs"]["adapter"] == sft["rounds/0000/train"]["committed"]["digest"]
    assert naive["rounds/0000/train"]["committed"]["digest"] == sft["rounds/0000/train"]["committed"]["digest"]
    assert "rounds/0000/train" not in semievol
    found = summary.summarise(cells["semievol"].root)
    assert [a.model for a in found.accuracies] == [summary.UNTOUCHED, summary.SEMIEVOL]
    assert "SemiEvol - untouched model:" in summary.render(found)
    assert "SemiEvol − untouched model:" in Path(write_report(cells["semievol"].root)).read_text(encoding="utf-8")
