import shutil
from pathlib import Path

import pytest

from semievol_ray import cli, schema, storage
from semievol_ray.core.identity import row_id
from semievol_ray.core.selection import Decision
from semievol_ray.errors import UserError
from semievol_ray.explain import explain, find_row
from semievol_ray.report import write_report
from tests.conftest import TOO_LONG, ScriptedRun, run_here
from tests.rundirs import do_run, rows_of, run_tree


def pool_id(question: str) -> str:
    return row_id("kinds", question, None)


def selected(root: Path, decision: Decision) -> dict[str, object]:
    paths = sorted((root / "rounds/0001/select").glob("*.parquet"))
    rows = [row for path in paths for row in storage.read_table(str(path), schema.SELECTION).to_pylist()]
    return next(row for row in rows if row["decision"] == decision.value)


def flat(text: str) -> str:
    return " ".join(text.split())


def test_explain_tells_the_whole_story_of_a_row(scripted_run: ScriptedRun) -> None:
    row = selected(scripted_run.root, Decision.ACCEPTED)

    told = flat(explain(str(scripted_run.root), str(row["id"])))

    parts = ["the pool number", "gold answer:", "demonstrations, nearest first cosine", "the labeled number"]
    parts += ["base_1 (demonstrations: 1):", "base_3", "warm_0:", "warm_3", "vote:", "entropy"]
    parts += [
        "justification:",
        "decision: accepted",
        str(row["reason"]),
        "H (mean_nll)",
        ", tau ",
        f"label {row['label']}",
    ]
    assert told.count("| Answer:") == 5
    places = [told.find(part) for part in parts]
    assert -1 not in places, dict(zip(parts, places, strict=True))
    assert places == sorted(places)


def test_explain_accepts_a_unique_beginning_of_the_id(scripted_run: ScriptedRun) -> None:
    root, full = str(scripted_run.root), pool_id("the pool number 5 [artifact]")

    assert explain(root, full[:12].upper()) == explain(root, full)


def test_explain_of_a_collapsed_row_says_for_how_many_it_stands(scripted_run: ScriptedRun) -> None:
    assert "stands for 2 equal rows" in explain(str(scripted_run.root), pool_id("the pool number 1 [animal]"))


def test_explain_of_a_failed_row_gives_the_engines_reason(scripted_run: ScriptedRun) -> None:
    told = flat(explain(str(scripted_run.root), pool_id(TOO_LONG)))

    assert "decision: engine_error" in told
    assert "max_model_len" in told
    assert "warm_0: failed" in told


def test_explain_ambiguous_id_lists_candidates(scripted_run: ScriptedRun) -> None:
    with pytest.raises(UserError, match="Give more of the id"):
        find_row(str(scripted_run.root), "")


def test_explain_unknown_id_says_where_ids_are(scripted_run: ScriptedRun) -> None:
    with pytest.raises(UserError, match=r"no row of .* begins with 'zzz'.*data/unlabeled"):
        explain(str(scripted_run.root), "zzz")


@pytest.mark.parametrize(
    ("question", "split"), [("the test number 0 [plant]", "test"), ("the labeled number 0 [plant]", "labeled")]
)
def test_explain_of_a_row_dropped_for_another_split_names_the_split(
    scripted_run: ScriptedRun, question: str, split: str
) -> None:
    with pytest.raises(UserError, match=f"row of the {split} split"):
        explain(str(scripted_run.root), pool_id(question))


def test_explain_of_a_run_under_way_says_what_has_not_happened(copied_run: Path) -> None:
    for gone in ("drafts/warm_0", "justify", "select"):
        shutil.rmtree(copied_run / "rounds/0001" / gone)
    (copied_run / "rounds/0001/drafts/warm_0").mkdir()

    told = flat(explain(str(copied_run), pool_id("the pool number 5 [artifact]")))

    assert "warm_0: has not answered yet" in told
    assert "decision: none yet" in told


@pytest.mark.usefixtures("small_ray")
def test_explain_and_report_of_a_tie_that_nothing_justified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch)
    tree = run_tree(tmp_path, labeled=12, unlabeled=48, test=8)
    tree["guard"] = {"min_accepted": 1, "min_answers": 1}
    tree["method"] |= {"justify": {"when": "never"}, "confidence": "scored_nll"}
    do_run(tree, tmp_path / "run")
    justified = rows_of(tmp_path / "run", "rounds/0001/justify", schema.JUSTIFIED)
    kept, tied = (next(row["id"] for row in justified if (row["vote"] is None) == tie) for tie in (False, True))

    assert "justification: none asked for; the vote is kept" in flat(explain(str(tmp_path / "run"), kept))
    assert "justification: none asked for; and there is no vote" in flat(explain(str(tmp_path / "run"), tied))
    assert "there is no vote to keep" in flat(Path(write_report(str(tmp_path / "run"))).read_text())


def test_explain_reads_no_other_part_than_the_rows_own(copied_run: Path) -> None:
    found = find_row(str(copied_run), pool_id("the pool number 5 [artifact]"))
    for path in (copied_run / "rounds/0001").rglob("part-*.parquet"):
        if path.stem != found.part:
            path.unlink()

    assert "decision:" in explain(str(copied_run), found.id)


def test_explain_through_the_command_line_exits_with_two_when_unknown(
    scripted_run: ScriptedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["explain", str(scripted_run.root), "nope"]) == 2
    assert capsys.readouterr().err.startswith("semievol: no row of")
