"""A study's table from results made up here: pooling, the gap rule, comparisons, and how a failure shows."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semievol_ray.config import RunConfig
from semievol_ray.study.file import Study, Variant
from semievol_ray.study.page import as_html
from semievol_ray.study.result import Result
from semievol_ray.study.table import NO_HEAD_ROOM, Outcome, Row, StudyTable, tabulate
from semievol_ray.study.text import as_csv, as_markdown, render
from semievol_ray.study.variants import BUILT_IN

CONFIG = RunConfig.model_validate(
    {"name": "x", "task": "wordnet", "data": {"labeled": "a", "unlabeled": "b", "test": "c"}, "model": "scripted"}
)
NAMES = ("vanilla", "sft", "semievol", "oracle")
NUM_ROWS = 200


def _study(names: tuple[str, ...] = NAMES, **compare: tuple[str, ...]) -> Study:
    variants = (Variant(name, BUILT_IN[name].making, CONFIG, "sft", compare.get(name, ())) for name in names)
    return Study("s", (0, 1), tuple(variants))


def _outcome(
    variant: str, seed: int, num_right: int, *, test: str = "t", reason: str | None = None, apart: bool = True
) -> Outcome:
    """The first `num_right` of NUM_ROWS rows are right; `apart`: each seed has test questions of its own."""
    result = Result(
        variant=variant,
        seed=seed,
        root=f"/study/{variant}/seed-{seed}",
        correct=np.arange(NUM_ROWS) < num_right,
        questions=tuple(f"{seed if apart else 'same'}-{i}" for i in range(NUM_ROWS)),
        test=f"{test}-{seed}",
        precision_all=0.5,
        precision_accepted=0.75 if seed else 0.85,
        coverage=0.5,
        num_prompt_tokens=1000,
        num_tokens=100,
        seconds=10.0 * (seed + 1),
    )
    return Outcome(variant, seed, result, reason)


def _table(right: dict[str, tuple[int, int]], study: Study | None = None) -> StudyTable:
    outcomes = [_outcome(name, seed, n) for name, counts in right.items() for seed, n in enumerate(counts)]
    return tabulate(study or _study(), (0, 1), outcomes)


def _row(found: StudyTable, name: str) -> Row:
    return next(row for row in found.rows if row.variant == name)


GAINS = {"vanilla": (40, 50), "sft": (100, 110), "semievol": (112, 118), "oracle": (120, 130)}


def test_row_has_mean_deviation_and_every_seed() -> None:
    row = _row(_table(GAINS), "semievol")
    assert dict(row.accuracies) == {0: 0.56, 1: 0.59}
    assert row.mean == pytest.approx(0.575)
    assert row.deviation == pytest.approx(0.03 / 2**0.5)
    assert row.precision_accepted == pytest.approx(0.80)
    assert row.seconds == pytest.approx(15.0)


def test_difference_to_sft_is_paired_over_the_rows_of_both_seeds() -> None:
    found = _table(GAINS)
    over = _row(found, "semievol").against_sft
    assert over is not None
    assert over.value == pytest.approx((12 + 8) / (2 * NUM_ROWS))
    assert 0 < over.low < over.value < over.high
    assert _row(found, "sft").against_sft is None


def test_seeds_that_ask_the_same_questions_are_no_further_evidence() -> None:
    counts = {"sft": 100, "semievol": 112, "oracle": 120}

    def tabulated(seeds: tuple[int, ...], apart: bool) -> StudyTable:
        outcomes = [_outcome(name, seed, n, apart=apart) for name, n in counts.items() for seed in seeds]
        return tabulate(_study(tuple(counts), semievol=("oracle",)), seeds, outcomes)

    one, same, apart = tabulated((0,), True), tabulated((0, 1), False), tabulated((0, 1), True)
    over = [_row(found, "semievol").against_sft for found in (one, same, apart)]
    assert over[0] == over[1]
    assert over[2] is not None
    assert over[1] is not None
    assert over[2].high - over[2].low < 0.8 * (over[1].high - over[1].low)
    assert one.room == same.room
    assert one.comparisons == same.comparisons


def test_share_of_the_gap_is_gain_over_gap_where_there_is_head_room() -> None:
    found = _table(GAINS)
    assert found.has_head_room
    assert found.room is not None
    assert found.room.value == pytest.approx(40 / (2 * NUM_ROWS))
    assert _row(found, "semievol").gap == pytest.approx(20 / 40)
    assert [_row(found, name).gap for name in ("vanilla", "sft", "oracle")] == [None] * 3


@pytest.mark.parametrize("oracle", [(105, 115), (100, 110), (90, 90)])
def test_gap_below_three_points_is_no_head_room(oracle: tuple[int, int]) -> None:
    found = _table({**GAINS, "oracle": oracle})
    assert not found.has_head_room
    assert _row(found, "semievol").gap == NO_HEAD_ROOM
    assert NO_HEAD_ROOM in render(found)


def test_share_without_sft_or_oracle_is_unknown() -> None:
    for lacking in ("sft", "oracle"):
        found = _table({name: counts for name, counts in GAINS.items() if name != lacking})
        assert _row(found, "semievol").gap is None
        assert found.room is None


def test_seeds_on_other_test_rows_are_not_compared() -> None:
    outcomes = [_outcome(name, seed, n) for name, counts in GAINS.items() for seed, n in enumerate(counts)]
    moved = [
        _outcome("semievol", 1, 200, test="other") if (o.variant, o.seed) == ("semievol", 1) else o for o in outcomes
    ]
    row = _row(tabulate(_study(), (0, 1), moved), "semievol")
    assert row.against_sft is not None
    assert row.against_sft.value == pytest.approx(12 / NUM_ROWS)
    assert row.accuracies[1] == 1.0


def test_comparisons_are_those_the_study_asks_for() -> None:
    found = _table(GAINS, _study(semievol=("vanilla", "oracle")))
    assert [(c.variant, c.other) for c in found.comparisons] == [("semievol", "vanilla"), ("semievol", "oracle")]
    assert found.comparisons[1].difference.value == pytest.approx(-20 / (2 * NUM_ROWS))


@pytest.fixture
def failed() -> StudyTable:
    """sft with both seeds; semievol stopped early in one and failed in the other; the oracle failed in both."""
    outcomes = [_outcome("sft", 0, 100), _outcome("sft", 1, 110), _outcome("semievol", 0, 120, reason="round 2 stops")]
    outcomes += [Outcome("semievol", 1, None, "nothing | accepted")]
    outcomes += [Outcome("oracle", seed, None, "the pool has no gold") for seed in (0, 1)]
    return tabulate(_study(("sft", "semievol", "oracle")), (0, 1), outcomes)


def test_failed_seed_says_why_and_leaves_the_other_in_the_means(failed: StudyTable) -> None:
    row = _row(failed, "semievol")
    assert (row.mean, row.deviation) == (0.6, None)
    text = render(failed)
    assert "semievol, seed 0: stopped early: round 2 stops" in text
    assert "semievol, seed 1: failed: nothing | accepted" in text
    assert "oracle, seed 0: failed: the pool has no gold" in text
    assert text.splitlines()[1].split()[:5] == ["sft", "52.5", "3.5", "50.0", "55.0"]
    assert text.splitlines()[2].split()[:5] == ["semievol", "60.0", "-", "60.0", "failed"]


def test_csv_reads_back_as_numbers_and_reasons(failed: StudyTable) -> None:
    rows: dict[str, dict[str, Any]] = {row["variant"]: row for row in csv.DictReader(io.StringIO(as_csv(failed)))}
    assert float(rows["sft"]["seed_1"]) == 0.55
    assert float(rows["semievol"]["points_over_sft"]) == pytest.approx(10.0)
    assert rows["oracle"]["mean"] == ""
    assert rows["oracle"]["failed"] == "seed 0: the pool has no gold; seed 1: the pool has no gold"


def test_markdown_has_as_many_cells_in_every_line_of_a_table(failed: StudyTable) -> None:
    tables = [block for block in as_markdown(failed).split("\n\n") if block.startswith("|")]
    assert len(tables) == 2
    for table in tables:
        assert len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1


@pytest.mark.parametrize("num_seeds", [1, 3, 9])
def test_text_fits_eighty_columns_and_shows_every_seed(num_seeds: int) -> None:
    names = ("sft", "without_collaboration", "oracle")
    outcomes = [_outcome(name, seed, 100 + 7 * i + seed) for i, name in enumerate(names) for seed in range(num_seeds)]
    text = render(tabulate(_study(names), range(num_seeds), outcomes))
    assert max(len(line) for line in text.splitlines()) <= 80
    for seed in range(num_seeds):
        assert f"seed {seed}" in text
        assert f"{(107 + seed) / 2:.1f}" in text


def test_page_links_the_reports_that_are_there_and_escapes_reasons(tmp_path: Path) -> None:
    there = tmp_path / "sft" / "seed-0"
    there.mkdir(parents=True)
    (there / "report.html").write_text("a report")
    ended = _outcome("sft", 0, 100)
    assert ended.result is not None
    here = Outcome("sft", 0, Result(**{**ended.result.__dict__, "root": str(there)}))
    outcomes = [here, _outcome("sft", 1, 110), Outcome("oracle", 0, None, "<b>no gold</b>")]
    html = as_html(tabulate(_study(("sft", "oracle")), (0, 1), outcomes), str(tmp_path), "footer")
    assert '<a href="sft/seed-0/report.html">50.0</a>' in html
    assert html.count("report.html") == 1
    assert "&lt;b&gt;no gold" in html
    assert "<b>no gold" not in html
