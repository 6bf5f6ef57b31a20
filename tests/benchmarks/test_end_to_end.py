"""What a pseudo-label costs is what the run recorded, divided by what it accepted."""

import json
from pathlib import Path

import pytest

from benchmarks import end_to_end
from tests.conftest import ScriptedRun


def committed(root: Path, step: str) -> dict[str, float]:
    return dict(json.loads((root / step / "step.json").read_text())["committed"]["metrics"])


def test_cost_of_a_run_is_that_of_its_facts(scripted_run: ScriptedRun, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert end_to_end.main([str(scripted_run.root), "--out", str(out)]) == 0
    found = json.loads(out.read_text())["metrics"]
    (name,) = {key.rpartition(" accepted")[0] for key in found if key.endswith(" accepted")}
    accepted = found[f"{name} accepted"]
    decisions = committed(scripted_run.root, "rounds/0001/select")["decisions"]
    assert accepted == next(row["rows"] for row in decisions if row["decision"] == "accepted")
    drafts = committed(scripted_run.root, "rounds/0001/drafts/base_3")
    key = f"{name} prompt tokens, rounds/0001/drafts/base_3 an accepted label"
    assert found[key] == pytest.approx(drafts["num_prompt_tokens"] / accepted)
    steps = [v for k, v in found.items() if k.startswith(f"{name} seconds, ")]
    assert sum(steps) == pytest.approx(found[f"{name} seconds an accepted label"])


def test_folder_that_is_no_run_is_said_to_be_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert end_to_end.main([str(tmp_path)]) == 2
    assert "no run directory" in " ".join(capsys.readouterr().err.split())
