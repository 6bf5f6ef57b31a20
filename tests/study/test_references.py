"""The models a study holds SemiEvol against, made in this process: what they learn from, and under which settings."""

from pathlib import Path
from typing import Any

import pytest

from semievol_ray import configfile, schema
from semievol_ray.runs import Step, read_steps
from semievol_ray.study.cell import Cell, make
from semievol_ray.study.file import Variant
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
