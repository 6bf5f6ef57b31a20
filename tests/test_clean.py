import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from semievol_ray import cli, lease, schema, sharing, storage
from semievol_ray.clean import clean_run, planned
from semievol_ray.cleaned import read_cleaned
from semievol_ray.config import RunConfig
from semievol_ray.configfile import parse
from semievol_ray.errors import RunInUseError, UserError
from semievol_ray.explain import explain
from semievol_ray.lease import Lease
from semievol_ray.listing import measured
from semievol_ray.outcomes import open_outcomes, rows_by_part
from semievol_ray.report import write_report
from semievol_ray.runs import Step, read_manifest
from semievol_ray.status import status
from tests.conftest import run_here
from tests.rundirs import changed, do_run, ids_of, parts_under, rows_of, run_tree, stamps_under, step_at

pytestmark = pytest.mark.usefixtures("without_ray")
Tree = dict[str, Any]


def two_rounds(folder: Path) -> Tree:
    return changed(run_tree(folder, labeled=12, unlabeled=48, test=8), "method.rounds", {"num": 2})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tree, Path]:
    """A run of two rounds, made once: copy it before cleaning it."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        run_here(patch)
        do_run(two_rounds(folder), folder / "run")
    return two_rounds(folder), folder / "run"


@pytest.fixture
def tree(finished: tuple[Tree, Path]) -> Tree:
    return finished[0]


@pytest.fixture
def root(finished: tuple[Tree, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished[1], tmp_path / "run"))


def config_of(root: Path) -> RunConfig:
    return parse(read_manifest(str(root))["config"], "test")


def agree(_: object) -> bool:
    return True


def texts(root: Path, name: str, columns: object = schema.DRAFTS) -> set[bool]:
    return {row["text"] is None for row in rows_of(root, name, columns)}


def test_scalars_drops_every_text_and_nothing_else(root: Path) -> None:
    before = {name: rows_of(root, name, schema.DRAFTS) for name in ("rounds/0001/drafts/warm_0",)}
    digest = step_at(root, "rounds/0001/drafts/warm_0").digest()

    freed = clean_run(str(root), "scalars", agree)

    assert freed is not None
    assert freed > 0
    after = rows_of(root, "rounds/0001/drafts/warm_0", schema.DRAFTS)
    assert after == [{**row, "text": None} for row in before["rounds/0001/drafts/warm_0"]]
    for name, columns in (("rounds/0002/justify", schema.JUSTIFIED), ("rounds/0002/evaluate", schema.PREDICTIONS)):
        assert texts(root, name, columns) == {True}
    assert step_at(root, "rounds/0001/drafts/warm_0").digest() == digest


def test_last_round_removes_what_only_earlier_rounds_needed(root: Path) -> None:
    last = parts_under(root, "rounds/0002")

    clean_run(str(root), "last_round", agree)

    assert parts_under(root, "rounds/0001/drafts") == {}
    assert parts_under(root, "rounds/0001/examples") == {}
    assert parts_under(root, "rounds/0001/retrieve") != {}, "round 2 shows them too"
    assert parts_under(root, "rounds/0001/select") != {}
    assert texts(root, "rounds/0001/justify", schema.JUSTIFIED) == {True}
    assert parts_under(root, "rounds/0002") == last


@pytest.mark.parametrize("keep", ["scalars", "last_round"])
def test_cleaned_run_is_done_again_at_once_without_making_anything(tree: Tree, root: Path, keep: str) -> None:
    assert clean_run(str(root), keep, agree)  # type: ignore[arg-type]
    before = stamps_under(root)

    do_run(tree, root)

    assert stamps_under(root) == before


@pytest.mark.parametrize("keep", ["scalars", "last_round"])
def test_cleaned_run_is_still_explained_reported_and_exported(root: Path, keep: str) -> None:
    exported = list(rows_by_part(open_outcomes(str(root)), "all"))
    row = ids_of(root, "data/unlabeled", schema.UNLABELED)[0]
    whole = explain(str(root), row)

    clean_run(str(root), keep, agree)  # type: ignore[arg-type]

    told = explain(str(root), row)
    assert "(text cleaned)" in told
    assert "has not answered yet" not in told
    assert [line for line in whole.splitlines() if line.startswith(("vote", "decision"))] == [
        line for line in told.splitlines() if line.startswith(("vote", "decision"))
    ]
    assert "text cleaned" in Path(write_report(str(root))).read_text(encoding="utf-8")
    assert list(rows_by_part(open_outcomes(str(root)), "all")) == exported
    assert cli.main(["evaluate", str(root)]) == 0


def test_kept_setting_cleans_as_rounds_end(tmp_path: Path) -> None:
    root = tmp_path / "run"
    do_run(changed(two_rounds(tmp_path), "keep", "last_round"), root)

    assert parts_under(root, "rounds/0001/drafts") == {}
    assert parts_under(root, "rounds/0002/drafts") != {}
    assert texts(root, "rounds/0002/drafts/warm_0") == {False}
    found = {step.name: step.cleaned for step in status(str(root)).steps}
    assert found["rounds/0001/drafts/warm_0"] == "parts"


def test_another_keep_is_no_other_run(tree: Tree, root: Path) -> None:
    before = parts_under(root, "rounds/0002")

    do_run(changed(tree, "keep", "last_round"), root)

    assert parts_under(root, "rounds/0001/drafts") == {}
    assert parts_under(root, "rounds/0002") == before


def test_part_that_was_cleaned_and_is_needed_again_is_named_with_the_way_on(tree: Tree, root: Path) -> None:
    clean_run(str(root), "last_round", agree)
    for path in sorted((root / "rounds/0001/justify").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (root / "rounds/0001/justify").rmdir()

    with pytest.raises(UserError, match=r"rounds/0001/drafts/.* were removed on .* by keep: last_round"):
        do_run(tree, root)


def test_clean_that_was_killed_goes_on(tree: Tree, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semievol_ray.clean.BATCH", 1)
    calls = []

    def dies(*claim: object) -> bool:
        calls.append(claim)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return False

    with monkeypatch.context() as patch:
        patch.setattr("semievol_ray.lease.is_superseded", dies)
        with pytest.raises(KeyboardInterrupt):
            clean_run(str(root), "scalars", agree)
    do_run(tree, root)
    clean_run(str(root), "scalars", agree)

    assert clean_run(str(root), "scalars", agree) == 0
    assert texts(root, "rounds/0001/drafts/warm_0") == {True}


def test_rewritten_parts_hold_what_was_noted_of_them(root: Path) -> None:
    clean_run(str(root), "scalars", agree)

    step = step_at(root, "rounds/0002/justify")
    assert read_cleaned(step.path) == measured(step.path, step.parts)


def test_clean_is_refused_while_a_driver_lives(root: Path) -> None:
    before = parts_under(root)
    held = Lease.take(str(root))
    try:
        with pytest.raises(RunInUseError):
            clean_run(str(root), "scalars", agree)
    finally:
        held.close()
    assert parts_under(root) == before


def test_round_under_way_keeps_its_texts(root: Path) -> None:
    record = json.loads((root / "rounds/0002/select/step.json").read_text())
    del record["committed"]
    (root / "rounds/0002/select/step.json").write_text(json.dumps(record))

    names = {removal.step for removal in planned(str(root), config_of(root), "scalars")}

    assert "rounds/0001/justify" in names
    assert not {name for name in names if name.startswith(("rounds/0002/drafts", "rounds/0002/justify"))}


def test_clean_verb_lists_and_asks_first(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = parts_under(root)

    assert cli.main(["clean", str(root), "--keep", "last_round"]) == 0

    said = capsys.readouterr().out
    assert "round 1 drafts/warm_0" in said
    assert max(len(line) for line in said.splitlines()) <= 80
    assert parts_under(root) == before
    assert cli.main(["clean", str(root), "--keep", "last_round", "--yes"]) == 0
    assert parts_under(root) != before


def test_clean_of_a_folder_that_is_no_run_makes_nothing(tmp_path: Path) -> None:
    assert cli.main(["clean", str(tmp_path / "none"), "--yes"]) == 2
    assert not (tmp_path / "none").exists()


def test_step_that_was_cleaned_is_taken_over_by_no_other_run(root: Path, tmp_path: Path) -> None:
    step, share = step_at(root, "rounds/0001/drafts/warm_0"), str(tmp_path / "share")
    sharing.offer(share, step)
    clean_run(str(root), "last_round", agree)

    other = Step(str(tmp_path / "other" / step.name), step.name, step.parts)

    assert sharing.take(share, other, step.record()) is None
    assert not Path(other.path).exists()


@pytest.mark.parametrize("moment", [1, 2])
def test_clean_that_was_taken_over_rewrites_no_step(
    finished: tuple[Tree, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    root = tmp_path / "run"
    shutil.copytree(finished[1], root)
    write, seen = storage.write, list[bytes]()

    def late(path: str, data: bytes, staging: str | None = None) -> None:
        """Before one of its writes of a step.json another driver takes the run."""
        if path.endswith("step.json"):
            seen.append(Path(path).read_bytes())
            if len(seen) == moment:
                monkeypatch.setattr(storage, "write", write)
                monkeypatch.setattr(lease, "is_running", lambda _: False)
                Lease.take(str(root)).close()
                seen.append(path.encode())
        write(path, data, staging)

    monkeypatch.setattr(storage, "write", late)
    with pytest.raises(RunInUseError, match="taken over"):
        clean_run(str(root), "scalars", lambda _: True)
    *_, held, path = seen
    assert Path(path.decode()).read_bytes() == held
