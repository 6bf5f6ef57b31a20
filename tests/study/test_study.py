"""Whole studies with the scripted engine: what is shared, what is shown, what a second command does, and what fails."""

import csv
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from semievol_ray import cli
from semievol_ray.config import RunConfig
from semievol_ray.errors import ConfigError, DriftError, RunStopped
from semievol_ray.progress import Progress
from semievol_ray.runs import read_events, read_steps
from semievol_ray.study.cell import Cell
from semievol_ray.study.file import Variant
from semievol_ray.study.run import run_study, seconds_left
from semievol_ray.study.variants import Making
from tests.conftest import run_here, write_config

QUIET = Progress(quiet=True)
GUARDED = {"name": "guarded", "overrides": {"guard.min_accepted": 1000}, "compare": []}
VARIANTS = ["sft", "sft_matched", "semievol", "oracle", GUARDED]


@dataclass(frozen=True)
class Made:
    """A study that was run to its end: its file, its folder, the text it printed, and what it said on the way."""

    file: Path
    folder: Path
    text: str
    told: list[str]


class _Told(Progress):
    """Keeps what is said, and is interrupted, as by Ctrl-C, after so many lines."""

    def __init__(self, most: int = 99) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []
        self._most = most

    def say(self, message: str) -> None:
        self.lines.append(message)
        if len(self.lines) == self._most:
            raise KeyboardInterrupt


def _write_study(folder: Path, **changes: Any) -> Path:
    drafters = [{"adapter": "warm"}, {"demonstrations": 1}]
    method = {"embedder": "hash", "collaborators": drafters}
    write_config(folder, method=method, report_to=[], data={"near_duplicates": {"action": "off"}, **_data()})
    study = {"name": "tiny", "base": "run.yaml", "seeds": [0, 1], "variants": VARIANTS, **changes}
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    return folder / "study.yaml"


def _data() -> dict[str, str]:
    return {split: f"{split}.csv" for split in ("labeled", "unlabeled", "test")}


@pytest.fixture(scope="module")
def made(small_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Made:  # noqa: ARG001
    """A study that was interrupted after two cells and then finished. Shared: copy it before changing anything."""
    folder = tmp_path_factory.mktemp("study")
    file, told = _write_study(folder), _Told()
    with pytest.MonkeyPatch.context() as patch:
        run_here(patch)
        with pytest.raises(KeyboardInterrupt):
            run_study(str(file), str(folder / "runs"), None, _Told(most=2))
        text = run_study(str(file), str(folder / "runs"), None, told)
    return Made(file, folder / "runs", text, told.lines)


def _table(made: Made) -> dict[str, dict[str, str]]:
    """The lines of study.csv by variant."""
    with (made.folder / "study.csv").open(encoding="utf-8") as file:
        return {row["variant"]: row for row in csv.DictReader(file)}


@pytest.fixture
def copied(made: Made, tmp_path: Path) -> Made:
    """A copy of the finished study, files and runs, to change at will."""
    shutil.copytree(made.file.parent, tmp_path / "copy")
    return Made(tmp_path / "copy" / "study.yaml", tmp_path / "copy" / "runs", made.text, made.told)


def _committed(made: Made, cell: str) -> dict[str, dict[str, Any]]:
    return {n: r["committed"] for n, r in read_steps(str(made.folder / cell)) if r.get("committed")}


def _metrics(made: Made, cell: str, step: str) -> dict[str, Any]:
    return dict(_committed(made, cell)[step]["metrics"])


def test_study_makes_every_equal_step_once(made: Made) -> None:
    semievol = _committed(made, "semievol/seed-0")
    of_sft = {"data/test", "data/labeled", "data/unlabeled", "data/gold", "rounds/0000/examples"}
    of_sft |= {"rounds/0000/train", "rounds/0000/evaluate"}
    assert {name for name, c in semievol.items() if "shared_from" in c} == of_sft
    for cell in ("sft_matched/seed-0", "oracle/seed-0"):
        there = _committed(made, cell)
        assert {name for name, c in there.items() if "shared_from" not in c and name.startswith("data/")} == set()
    guarded = _committed(made, "guarded/seed-0")
    assert {name for name, c in guarded.items() if "shared_from" not in c} == set()
    assert guarded["rounds/0001/select"]["digest"] == semievol["rounds/0001/select"]["digest"]
    kinds = {event["kind"] for event in read_events(str(made.folder / "guarded" / "seed-0"))}
    assert "session_started" not in kinds


def test_other_seed_is_trained_anew(made: Made) -> None:
    second = _committed(made, "sft/seed-1")
    assert "shared_from" in second["data/test"]
    assert "shared_from" not in second["rounds/0000/train"]


def test_table_shows_what_the_runs_measured(made: Made) -> None:
    rows = _table(made)
    for variant, step in (
        ("sft", "rounds/0000/evaluate"),
        ("sft_matched", "sft_matched/evaluate"),
        ("semievol", "rounds/0001/evaluate"),
        ("oracle", "oracle/evaluate"),
    ):
        for seed in (0, 1):
            accuracy = _metrics(made, f"{variant}/seed-{seed}", step)["accuracy"]
            assert float(rows[variant][f"seed_{seed}"]) == pytest.approx(accuracy, rel=1e-5)
    selected = [_metrics(made, f"semievol/seed-{seed}", "rounds/0001/select") for seed in (0, 1)]
    for key in ("precision_all", "precision_accepted", "coverage"):
        assert float(rows["semievol"][key]) == pytest.approx(sum(m[key] for m in selected) / 2, rel=1e-5)
    assert made.text.splitlines()[0].split()[:5] == ["variant", "mean", "sd", "seed", "0"]


def test_variant_costs_what_it_would_have_cost_alone(made: Made) -> None:
    rows = _table(made)
    alone = [
        c for n, c in _committed(made, "semievol/seed-0").items() if n not in ("base/evaluate", "rounds/0000/evaluate")
    ]
    tokens = sum(c["metrics"].get("num_tokens", 0) for c in alone)
    assert float(rows["semievol"]["tokens"]) == pytest.approx(tokens, rel=0.05)
    assert float(rows["semievol"]["seconds"]) > float(rows["sft"]["seconds"])
    assert float(rows["sft"]["seconds"]) > 0


def test_page_links_the_report_of_every_run(made: Made) -> None:
    page = (made.folder / "study.html").read_text(encoding="utf-8")
    links = re.findall(r'href="([^"#]+)"', page)
    assert sorted(links) == sorted(f"{v}/seed-{s}/report.html" for v in _table(made) for s in (0, 1) if v != "guarded")
    for link in links:
        assert "<h1>" in (made.folder / link).read_text(encoding="utf-8")


def test_matched_variant_has_the_steps_of_semievols_last_fine_tuning(made: Made) -> None:
    record = dict(read_steps(str(made.folder / "sft_matched" / "seed-0")))["sft_matched/train"]
    steps = _metrics(made, "semievol/seed-0", "rounds/0001/train")["num_steps"]
    assert record["settings"]["train"]["max_steps"] == steps
    warm = dict(read_steps(str(made.folder / "sft" / "seed-0")))["rounds/0000/train"]
    assert record["inputs"]["examples"] == warm["inputs"]["examples"]


def test_oracle_learns_the_labels_and_the_whole_pool(made: Made) -> None:
    committed = _committed(made, "oracle/seed-0")
    labeled, pool = (committed[f"data/{split}"]["num_rows"] for split in ("labeled", "unlabeled"))
    assert committed["oracle/examples"]["num_rows"] == labeled + pool


def test_variant_that_cannot_run_says_why_and_the_others_go_on(made: Made) -> None:
    rows = _table(made)
    assert rows["guarded"]["mean"] == ""
    assert "guard.min_accepted is 1000" in rows["guarded"]["failed"]
    assert "guarded, seed 0: failed: round 1 stops before training" in made.text
    assert "guard.min_accepted" in (made.folder / "study.html").read_text()
    assert all(rows[name]["seed_1"] for name in ("sft", "sft_matched", "semievol", "oracle"))


def test_interrupted_study_goes_on_with_what_is_missing(made: Made) -> None:
    told = {cell: read_events(str(made.folder / cell)) for cell in ("sft/seed-0", "semievol/seed-0", "oracle/seed-0")}
    attempts = {cell: [e["kind"] for e in events].count("run_started") for cell, events in told.items()}
    assert attempts == {"sft/seed-0": 2, "semievol/seed-0": 2, "oracle/seed-0": 1}
    for cell, events in told.items():
        ended = [e["step"] for e in events if e["kind"] in ("step_committed", "step_shared")]
        lasting = [step for step in ended if step not in ("data/read", "data/kept")]
        assert sorted(lasting) == sorted(_committed(made, cell))


def test_study_says_a_line_a_cell_cheap_ones_first_with_the_time_left(made: Made) -> None:
    cells = [" ".join(line.split(":")[0].split()) for line in made.told]
    order = ["sft", "semievol", "guarded", "sft_matched", "oracle"]
    assert cells == [f"{variant} seed {seed}" for seed in (0, 1) for variant in order]
    assert all("left" in line for line in made.told[:-1])
    assert made.told[-1].endswith("10 of 10 done")


AGAIN = """
import sys
from semievol_ray.progress import Progress
from semievol_ray.study.run import run_study
print(run_study(sys.argv[1], sys.argv[2], [0], Progress(quiet=True)))
print("ray" in sys.modules)
"""


def test_second_command_makes_the_same_table_without_ray(copied: Made) -> None:
    shutil.rmtree(copied.folder / "guarded")
    file = yaml.safe_load(copied.file.read_text())
    copied.file.write_text(yaml.safe_dump({**file, "variants": VARIANTS[:-1]}))
    before = {p: p.stat().st_mtime_ns for p in copied.folder.rglob("*.parquet")}
    command = [sys.executable, "-c", AGAIN, str(copied.file), str(copied.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines()[-1:] == ["False"], done.stderr[-2000:]
    assert {p: p.stat().st_mtime_ns for p in copied.folder.rglob("*.parquet")} == before


def test_changed_base_is_refused_naming_the_variant_and_changes_nothing(copied: Made) -> None:
    file = yaml.safe_load(copied.file.read_text())
    copied.file.write_text(yaml.safe_dump({**file, "overrides": {"method.select.theta": 0.25}}))
    before = {p: p.stat().st_mtime_ns for p in copied.folder.rglob("*.parquet")}
    with pytest.raises(DriftError, match="semievol, seed 0: ") as caught:
        run_study(str(copied.file), str(copied.folder), [0], QUIET)
    assert "settings.select.theta: 0.5 in the run directory, 0.25 now" in str(caught.value)
    assert "--runs DIR" in str(caught.value)
    assert {p: p.stat().st_mtime_ns for p in copied.folder.rglob("*.parquet")} == before


@pytest.mark.usefixtures("small_ray")
def test_study_of_which_nothing_can_run_stops_with_the_reasons(tmp_path: Path) -> None:
    file = _write_study(tmp_path, variants=["vanilla", "sft"], seeds=[0])
    (tmp_path / "labeled.csv").unlink()
    with pytest.raises(RunStopped, match=r"(?s)no variant.*vanilla: .*labeled\.csv: there is no such file"):
        run_study(str(file), str(tmp_path / "runs"), None, QUIET)


def test_mistake_in_the_file_is_told_before_anything_is_made(tmp_path: Path) -> None:
    file = _write_study(tmp_path, variants=["semievl"])
    with pytest.raises(ConfigError, match="did you mean semievol"):
        run_study(str(file), str(tmp_path / "runs"), None, QUIET)
    assert not (tmp_path / "runs").exists()


def test_seed_that_the_file_lacks_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The seeds of a table are written down before it is made."""
    file = _write_study(tmp_path)
    assert cli.main(["study", str(file), "--runs", str(tmp_path / "runs"), "--seeds", "1,7"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"seed 7 is not in {file}, whose seeds are 0, 1; add it there" in told
    assert not (tmp_path / "runs").exists()


def test_seeds_that_are_no_numbers_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["study", "study.yaml", "--seeds", "0,b"])
    assert "'0,b' is no list of whole numbers such as 0,1,2" in capsys.readouterr().err


def _cells(*names: str) -> list[Cell]:
    config = RunConfig.model_validate(
        {"name": "x", "task": "wordnet", "data": {"labeled": "a", "unlabeled": "b", "test": "c"}, "model": "scripted"}
    )
    return [Cell(Variant(name, Making.ROUNDS, config, "sft"), seed, "/study") for seed in (0, 1) for name in names]


@pytest.mark.parametrize(
    ("made", "left"),
    [
        ({("a", 0): 10.0}, 10.0 + 10.0 + 10.0),  # nothing is known of b: as long as a
        ({("a", 0): 10.0, ("b", 0): 40.0}, 10.0 + 40.0),
        ({("a", 0): 10.0, ("b", 0): 40.0, ("a", 1): 20.0}, 40.0),
        ({("a", 0): 10.0, ("b", 0): 40.0, ("a", 1): 20.0, ("b", 1): 0.0}, 0.0),
    ],
)
def test_time_left_is_what_the_variants_took_with_other_seeds(
    made: Mapping[tuple[str, int], float], left: float
) -> None:
    assert seconds_left(_cells("a", "b"), made) == pytest.approx(left)
