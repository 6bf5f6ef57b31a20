"""`semievol verify`: damage of every kind is found and named, and repaired so that only those parts are made again."""

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semievol_ray import clean, cli, configfile, schema
from semievol_ray.errors import DriftError, RunInUseError, StorageError
from semievol_ray.findings import Fault, Finding
from semievol_ray.lease import Lease
from semievol_ray.listing import measured, write_listing
from semievol_ray.progress import Progress
from semievol_ray.repair import plan_of, repair
from semievol_ray.runs import Run, read_events
from semievol_ray.verify import verify
from tests.conftest import run_here
from tests.rundirs import do_run, parts_under, run_tree, stamps_under, step_at

SELECT, DRAFTS, JUSTIFY = "rounds/0001/select", "rounds/0001/drafts/base_1", "rounds/0001/justify"
Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The configuration and the folder of a finished run with a dev fold. Copied before anything in it is changed."""
    folder = tmp_path_factory.mktemp("verify")
    tree = run_tree(folder, labeled=24, unlabeled=24, test=8)
    tree["data"]["dev"] = 8
    with pytest.MonkeyPatch.context() as patch:
        run_here(patch)
        do_run(tree, folder / "run")
    return tree, folder / "run"


@pytest.fixture
def root(finished: tuple[dict[str, Any], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished[1], tmp_path / "run"))


def _quiet() -> Progress:
    return Progress(quiet=True)


def _found(root: Path) -> tuple[Finding, ...]:
    return verify(str(root), _quiet()).findings


def _write(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)


def _cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 1
    path.write_bytes(bytes(data))


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _fewer_rows(path: Path) -> None:
    _write(path, pq.read_table(path).slice(0, 3))


def _other_order(path: Path) -> None:
    table = pq.read_table(path)
    _write(path, table.take(list(range(table.num_rows))[::-1]))


def _other_columns(path: Path) -> None:
    _write(path, pq.read_table(path).select(["id"]))


def test_untouched_run_has_no_findings(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _found(root) == ()
    assert cli.main(["verify", str(root)]) == 0
    assert "all of it is as it was stored" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(
    ("damage", "fault", "told"),
    [
        (_cut_off, Fault.DAMAGED, "cut off or overwritten"),
        (_empty, Fault.DAMAGED, "its 0 bytes do not end"),
        (_flip_a_bit, Fault.DAMAGED, "not readable as parquet"),
        (_fewer_rows, Fault.EDITED, "holds 3 rows, and 8 were committed"),
        (_other_order, Fault.EDITED, "8 rows as committed, but with other content or in another order"),
        (_other_columns, Fault.EDITED, "8 rows as committed"),
        (Path.unlink, Fault.MISSING, "gone, and the step was committed with it"),
    ],
)
def test_changed_part_of_a_committed_step_is_named(root: Path, damage: Damage, fault: Fault, told: str) -> None:
    damage(root / SELECT / "part-00001.parquet")
    (finding,) = _found(root)
    assert (finding.step, finding.file, finding.fault) == (SELECT, "part-00001.parquet", fault)
    assert finding.can_remake
    assert told in finding.found


def test_part_of_a_step_under_way_is_checked_by_its_checksums(root: Path) -> None:
    record = json.loads((root / SELECT / "step.json").read_text())
    del record["committed"]
    (root / SELECT / "step.json").write_text(json.dumps(record))
    (root / SELECT / "part-00002.parquet").unlink()  # not made yet: no fault
    _flip_a_bit(root / SELECT / "part-00001.parquet")
    assert [(f.file, f.fault) for f in _found(root)] == [("part-00001.parquet", Fault.DAMAGED)]


def test_files_that_belong_to_nothing_are_told_and_no_damage(root: Path) -> None:
    shutil.copy(root / SELECT / "part-00000.parquet", root / SELECT / "part-00009.parquet")
    (root / "rounds" / "0007").mkdir()
    shutil.copy(root / SELECT / "part-00000.parquet", root / "rounds" / "0007" / "part-00000.parquet")
    found = verify(str(root), _quiet())
    told = [(f"{f.step}/{f.file}", f.fault) for f in found.findings]
    assert told == [
        (f"{SELECT}/part-00009.parquet", Fault.FOREIGN), ("rounds/0007/part-00000.parquet", Fault.FOREIGN)
    ]  # fmt: skip
    assert found.damage == ()
    assert cli.main(["verify", str(root)]) == 0


def test_edited_list_of_parts_vouches_for_nothing_and_is_written_anew(root: Path) -> None:
    listing = root / SELECT / "parts.json"
    original = listing.read_bytes()
    for text in ("", "{}", original.decode().replace('"num_rows": 8', '"num_rows": 9')):
        listing.write_text(text)
        assert [(f.file, f.fault) for f in _found(root)] == [("parts.json", Fault.UNLISTED)]
        repair(str(root), lambda *_: True, _quiet())
        assert listing.read_bytes() == original
    edited = root / SELECT / "part-00001.parquet"
    _other_order(edited)
    write_listing(str(root / SELECT), measured(str(root / SELECT), step_at(root, SELECT).parts))
    (finding,) = _found(root)
    assert (finding.file, finding.fault, finding.can_remake) == ("step.json", Fault.UNKNOWN, False)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r: r.pop("parts"), "`parts` is missing in it"),
        (lambda r: r.update(settings=[1]), "`settings` is [1] in it"),
        (lambda r: r["committed"].pop("digest"), "`committed.digest` is missing in it"),
        (lambda r: r.update(committed=True), "`committed` is true in it"),
    ],
)
def test_step_file_without_a_field_is_refused_in_one_sentence(
    root: Path, change: Callable[[dict[str, Any]], object], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads((root / SELECT / "step.json").read_text())
    change(record)
    (root / SELECT / "step.json").write_text(json.dumps(record))
    (finding,) = _found(root)
    assert (finding.file, finding.fault) == ("step.json", Fault.UNKNOWN)
    for verb in ("status", "verify"):
        assert cli.main([verb, str(root)]) in (1, 2)
        out, err = capsys.readouterr()
        assert told in " ".join((out + err).split())
        assert "Traceback" not in err


@pytest.mark.parametrize("text", ["", "[]", '{"name": "x"}', '{"config": 7, "name": "x"}'])
def test_edited_manifest_is_refused_in_one_sentence(root: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "manifest.json").write_text(text)
    for verb, code in (("status", 2), ("verify", 1)):
        assert cli.main([verb, str(root)]) == code
        out, err = capsys.readouterr()
        assert re.search(r"manifest\.json\s+is damaged or was edited", out + err)


def test_damaged_manifest_is_refused_before_any_work(finished: tuple[dict[str, Any], Path], root: Path) -> None:
    (root / "manifest.json").write_text("{")
    before = stamps_under(root)
    with pytest.raises(StorageError, match="delete this file and run the same command again"):
        do_run(finished[0], root)
    assert stamps_under(root) == before
    (root / "manifest.json").unlink()
    do_run(finished[0], root)
    assert _found(root) == ()


def test_changed_adapter_is_found(root: Path) -> None:
    adapter = root / "rounds" / "0000" / "train" / "adapter" / "adapter_config.json"
    adapter.write_text(adapter.read_text() + " ")
    (finding,) = _found(root)
    assert (finding.step, finding.fault) == ("rounds/0000/train", Fault.UNKNOWN)
    assert "the adapter in it" in finding.found


@pytest.mark.parametrize("step", ["data/unlabeled", "rounds/0001/retrieve", SELECT, "rounds/0001/dev/select"])
def test_repaired_parts_alone_are_made_again_and_all_later_steps_stand(
    finished: tuple[dict[str, Any], Path],
    root: Path,
    without_ray: None,  # noqa: ARG001
    step: str,
) -> None:
    before, stamps = parts_under(root), stamps_under(root)
    damaged = {f"{step}/part-00000.parquet"}
    _flip_a_bit(root / step / "part-00000.parquet")
    if len(step_at(root, step).parts) > 2:
        _fewer_rows(root / step / "part-00002.parquet")
        damaged.add(f"{step}/part-00002.parquet")
    repair(str(root), lambda *_: True, _quiet())
    assert set(before) - set(parts_under(root)) == damaged
    do_run(finished[0], root)
    assert parts_under(root) == before
    assert _found(root) == ()
    rewritten = {path for path, stamp in stamps_under(root).items() if stamps[path] != stamp}
    assert rewritten == {str(root / path) for path in (*damaged, f"{step}/step.json")}


def test_repaired_draft_that_comes_out_otherwise_is_refused_with_the_folders_to_delete(
    finished: tuple[dict[str, Any], Path],
    root: Path,
    without_ray: None,  # noqa: ARG001
) -> None:
    (root / DRAFTS / "part-00001.parquet").unlink()
    plan = repair(str(root), lambda *_: True, _quiet())
    assert plan.steps == (DRAFTS,)
    step = step_at(root, DRAFTS)
    rows = step.read_part("part-00000", schema.DRAFTS).to_pylist()
    others = step_at(root, "data/unlabeled").read_part("part-00001", schema.UNLABELED).column("id").to_pylist()
    drawn = [{**row, "id": i, "text": "drawn anew"} for row, i in zip(rows, others, strict=True)]
    step.commit_part("part-00001", pa.Table.from_pylist(drawn, schema=schema.DRAFTS))
    with pytest.raises(DriftError, match=rf"step {JUSTIFY} .* was made with other") as caught:
        do_run(finished[0], root)
    assert f"delete the folder {root}/{JUSTIFY} and those begun after it" in str(caught.value)


def test_repair_is_noted_and_asks_first(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    _cut_off(root / DRAFTS / "part-00001.parquet")
    before = stamps_under(root)
    assert cli.main(["verify", str(root)]) == 1
    out, err = capsys.readouterr()
    assert f"{DRAFTS}/part-00001.parquet\n  damaged: cut off" in out
    assert "--repair" in err
    assert all(len(line) <= 80 for line in out.splitlines() if " " in line.strip())
    assert cli.main(["verify", str(root), "--repair"]) == 1  # nobody there to say yes
    assert stamps_under(root) == before
    assert JUSTIFY in capsys.readouterr().out
    assert cli.main(["verify", str(root), "--repair", "--yes"]) == 0
    assert not (root / DRAFTS / "part-00001.parquet").exists()
    assert step_at(root, DRAFTS).missing_parts() == ("part-00001",)
    assert step_at(root, DRAFTS).committed() is None
    event = read_events(str(root))[-1]
    assert (event["kind"], event["step"], event["parts"]) == ("step_repaired", DRAFTS, ["part-00001"])
    assert cli.main(["verify", str(root)]) == 0


def test_repair_is_refused_while_a_driver_lives(root: Path) -> None:
    _cut_off(root / DRAFTS / "part-00001.parquet")
    lease = Lease.take(str(root))
    try:
        with pytest.raises(RunInUseError, match="in use by"):
            repair(str(root), lambda *_: True, _quiet())
        assert len(_found(root)) == 1  # looking disturbs nobody
    finally:
        lease.close()


def test_repair_that_was_interrupted_goes_on(root: Path) -> None:
    for part in ("part-00000", "part-00001"):
        _cut_off(root / DRAFTS / f"{part}.parquet")
    (root / DRAFTS / "part-00000.parquet").unlink()  # as if killed after the first of two
    assert [f.fault for f in plan_of(verify(str(root), _quiet())).parts] == [Fault.MISSING, Fault.DAMAGED]
    repair(str(root), lambda *_: True, _quiet())
    assert step_at(root, DRAFTS).missing_parts() == ("part-00000", "part-00001")


def test_part_that_is_gone_is_missed_with_the_way_on(root: Path) -> None:
    (root / "data" / "unlabeled" / "part-00001.parquet").unlink()
    with pytest.raises(StorageError, match=rf"part-00001\.parquet is gone\. `semievol verify {root} --repair`"):
        step_at(root, "data/unlabeled").read_part("part-00001", schema.UNLABELED)


@pytest.mark.parametrize("keep", ["scalars", "last_round"])
def test_cleaned_run_has_no_findings_and_its_damage_is_a_persons_to_mend(
    finished: tuple[dict[str, Any], Path], root: Path, keep: clean.Keep
) -> None:
    with Run.open(str(root), {}) as run:
        clean.clean(run, clean.planned(str(root), configfile.parse(finished[0], "test"), keep))
    assert _found(root) == ()
    record = json.loads((root / JUSTIFY / "step.json").read_text())
    assert bool(record.get("cleaned")) == (keep == "scalars")
    _other_order(root / JUSTIFY / "part-00001.parquet")
    (finding,) = _found(root)
    assert (finding.fault, finding.can_remake) == (Fault.EDITED, keep != "scalars")


def _cut_short(root: Path) -> None:
    """As a kill between the last justification and its commit leaves a run."""
    for path in sorted((root / "rounds" / "0001").iterdir()):
        if path.name not in ("retrieve", "drafts", "justify"):
            shutil.rmtree(path)
    record = json.loads((root / JUSTIFY / "step.json").read_text())
    del record["committed"]
    (root / JUSTIFY / "step.json").write_text(json.dumps(record))
    (root / JUSTIFY / "parts.json").unlink()


def test_justifications_that_no_commit_holds_go_with_a_part_of_their_drafts(
    finished: tuple[dict[str, Any], Path],
    root: Path,
    without_ray: None,  # noqa: ARG001
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = parts_under(root)
    _cut_short(root)
    _cut_off(root / DRAFTS / "part-00001.parquet")
    (finding,) = _found(root)
    assert finding.step == DRAFTS
    assert cli.main(["verify", str(root), "--repair", "--yes"]) == 0
    assert f"2 parts (1 of {JUSTIFY}, 1 of {DRAFTS})" in " ".join(capsys.readouterr().out.split())
    assert step_at(root, DRAFTS).missing_parts() == step_at(root, JUSTIFY).missing_parts() == ("part-00001",)
    do_run(finished[0], root)
    assert parts_under(root) == before


def test_justifications_that_a_commit_holds_stay_with_a_part_of_their_drafts(root: Path) -> None:
    _cut_off(root / DRAFTS / "part-00001.parquet")
    repair(str(root), lambda *_: True, _quiet())
    assert step_at(root, JUSTIFY).missing_parts() == ()


def test_justifications_of_drafts_that_were_since_begun_anew_are_refused_before_their_commit(
    finished: tuple[dict[str, Any], Path],
    root: Path,
    without_ray: None,  # noqa: ARG001
) -> None:
    _cut_short(root)
    shutil.rmtree(root / DRAFTS)
    before = stamps_under(root, JUSTIFY)
    with pytest.raises(DriftError, match=rf"step {JUSTIFY} .* was made with other") as caught:
        do_run(finished[0], root)
    assert DRAFTS in str(caught.value)
    assert f"delete the folder {root}/{JUSTIFY}" in str(caught.value)
    assert stamps_under(root, JUSTIFY) == before


def test_justifications_of_which_none_is_stored_begin_anew_with_their_drafts_and_go_on_after_a_kill(
    finished: tuple[dict[str, Any], Path],
    root: Path,
    without_ray: None,  # noqa: ARG001
) -> None:
    before = parts_under(root)
    _cut_short(root)
    shutil.rmtree(root / DRAFTS)
    for path in (root / JUSTIFY).glob("*.parquet"):
        path.unlink()
    do_run(finished[0], root)
    assert parts_under(root) == before
    _cut_short(root)
    do_run(finished[0], root)
    assert parts_under(root) == before
