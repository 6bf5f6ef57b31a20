"""The package from Python: a run done, opened and looked at; and README's example."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import readme_reference

import semievol_ray
from semievol_ray import RunConfig, open_run, run, schema
from semievol_ray.errors import UserError
from semievol_ray.progress import Progress
from tests.conftest import run_here
from tests.rundirs import rows_of, run_tree

NUM_POOL = 32


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> semievol_ray.OpenedRun:
    """A finished scripted run, made from Python with relative paths; only to be looked at."""
    folder = tmp_path_factory.mktemp("api")
    tree = run_tree(folder, labeled=24, unlabeled=NUM_POOL, test=8)
    tree["data"]["unlabeled"] = {"path": "unlabeled.csv"}
    with pytest.MonkeyPatch.context() as patch:
        run_here(patch)
        patch.chdir(folder)
        return run(RunConfig.model_validate(tree), "run", progress=Progress(quiet=True))


def test_run_from_python_is_where_it_was_asked_for_and_opens_again(done: semievol_ray.OpenedRun) -> None:
    assert Path(done.root).is_absolute()
    assert open_run(done.root) == done
    assert done.config.data.unlabeled.path == str(Path(done.root).parent / "unlabeled.csv")
    assert done.round == 1
    assert Path(done.adapter, "adapter_config.json").exists()


def test_tables_of_a_step_are_its_rows_in_order(done: semievol_ray.OpenedRun) -> None:
    rows = rows_of(Path(done.root), "rounds/0001/select", schema.SELECTION)
    assert done.table("rounds/0001/select").to_pylist() == rows
    frame = done.frame("rounds/0001/select")
    assert isinstance(frame, pd.DataFrame)
    assert frame["id"].tolist() == [row["id"] for row in rows]
    assert sum(table.num_rows for table in done.parts("data/unlabeled")) == NUM_POOL


def test_steps_have_their_figures(done: semievol_ray.OpenedRun) -> None:
    steps = {step.name: step for step in done.steps()}
    assert steps["rounds/0001/evaluate"].num_rows == 8
    assert done.metrics("rounds/0001/evaluate") == steps["rounds/0001/evaluate"].metrics
    assert 0 <= done.metrics("rounds/0001/evaluate")["accuracy"] <= 1


def test_pseudo_labels_are_a_frame_of_the_decided_pool(done: semievol_ray.OpenedRun) -> None:
    labels = done.pseudo_labels()
    accepted = done.pseudo_labels("accepted")
    assert len(labels) == NUM_POOL
    assert set(accepted["decision"]) == {"accepted"}
    assert len(accepted) == done.metrics("rounds/0001/select")["num_accepted"]


def test_unknown_step_and_folder_are_refused_with_what_there_is(done: semievol_ray.OpenedRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rounds/0001/select"):
        done.table("rounds/0001/selekt")
    with pytest.raises(UserError, match="no table yet"):
        done.table("rounds/0001/train")
    with pytest.raises(UserError, match="no run directory"):
        open_run(str(tmp_path))


def test_package_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="open_runs"):
        semievol_ray.open_runs  # noqa: B018
    assert set(semievol_ray.__all__) >= {"RunConfig", "run", "open_run"}


@pytest.mark.usefixtures("without_ray")
def test_readme_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = (
        text
        for text in re.findall(r"```python\n(.*?)```", readme_reference.PAGES[0].read_text(encoding="utf-8"), re.DOTALL)
        if "open_run" in text
    )
    data = tmp_path / "benchmarks/data/wordnet"
    data.mkdir(parents=True)
    for split in ("labeled", "unlabeled", "test"):
        shutil.copy(readme_reference.ROOT / data.relative_to(tmp_path) / f"{split}.csv", data)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    labels = pd.read_parquet("labels.parquet")
    assert list(labels.columns) == schema.LABELS.names
    assert len(labels) == len(pd.read_csv(data / "test.csv"))
