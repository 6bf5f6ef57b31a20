"""The audit of a round over its parts: what is counted, from which gold answers, and that it stays small."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from semievol_ray import schema
from semievol_ray.core.answers import Number
from semievol_ray.runs import Run, Step
from semievol_ray.stages.audit import audit_round, totals_of
from semievol_ray.stages.evaluate import pseudo_label_metrics
from semievol_ray.tasks import Task

Row = dict[str, Any]
NUMBERS = Task("sums", "Add.", Number(0.01), max_tokens=8)


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts are mapped here instead of in Ray Data tasks, the last one first."""

    def map_parts(function: Callable[..., Row], parts: Sequence[str], **constants: Any) -> Iterator[Row]:
        return (function({"part": part}, **constants) for part in reversed(parts))

    monkeypatch.setattr("semievol_ray.stages.audit.map_parts", map_parts)


@pytest.fixture
def round_of(step_of: Callable[..., Step]) -> Callable[..., tuple[Step, Step, Step]]:
    """round_of(name, gold schema, rows) -> justified, selection and gold steps of two parts each."""

    def make(name: str, columns: Any, rows: Sequence[Row]) -> tuple[Step, Step, Step]:
        full = [{"id": f"{name}{i}", "decision": "uncertain", **row} for i, row in enumerate(rows)]
        golds = [{"id": row["id"], "answer": row.get("gold")} for row in full]
        found = []
        for step, kept, values in (
            ("justify", schema.JUSTIFIED, full),
            ("select", schema.SELECTION, full),
            ("gold", columns, golds),
        ):
            cut = [{key: row[key] for key in kept.names if key in row} for row in values]
            found.append(step_of(f"{name}/{step}", kept, cut[:3], cut[3:]))
        return found[0], found[1], found[2]

    return make


def audited(
    justified: Step,
    selection: Step,
    gold: Step | None,
    labeled: Step,
    dev: tuple[Step, Step, Step] | None,
    task: Task,
) -> dict[str, Any]:
    """The audit of a pool and, where there is one, of a dev fold: justified, selection and gold of each."""
    fold = totals_of(*dev, task) if dev else None
    return audit_round(justified, totals_of(justified, selection, gold, task), labeled, fold, task)


ROWS: list[Row] = [
    {"answers": ["plant", "plant"], "label": "plant", "confidence": 0.0, "decision": "accepted", "gold": "plant"},
    {"answers": ["plant", "food"], "label": "food", "confidence": 0.5, "decision": "accepted", "gold": "plant"},
    {"answers": ["food", None], "label": "food", "confidence": 0.75, "gold": "food"},
    {"answers": [None, None], "label": None, "confidence": None, "decision": "unreadable", "gold": "food"},
    {"answers": ["animal", "animal"], "label": "animal", "confidence": 2.0},
]


@pytest.fixture
def found(round_of: Callable[..., tuple[Step, Step, Step]], labeled: Step, task: Task) -> dict[str, Any]:
    justified, selection, gold = round_of("r", schema.GOLD, ROWS)
    return audited(justified, selection, gold, labeled, None, task)


def test_audit_counts_rows_with_and_without_a_confidence(found: dict[str, Any]) -> None:
    assert (found["num_rows"], found["num_confident"]) == (5, 4)
    histogram = found["histogram"]
    assert (sum(histogram["rows"]), sum(histogram["accepted"])) == (4, 2)
    assert len(histogram["rows"]) == len(histogram["edges"]) + 1
    assert histogram["rows"][0] == histogram["accepted"][0] == 1


def test_audit_judges_the_pool_by_the_gold_answers_that_it_has(found: dict[str, Any]) -> None:
    worth = found["gold"]
    assert (worth["num_rows"], worth["precision"]["value"]) == (3, pytest.approx(2 / 3))
    assert (worth["num_accepted"], worth["precision_accepted"]["value"]) == (2, 0.5)
    assert [(b["rows"], b["right"]) for b in worth["bins"]] == [(1, 1), (1, 0), (1, 1)]
    assert sum(b["rows"] for b in worth["curve"]) == 3
    assert found["dev"] is None


def test_what_if_counts_every_row_and_judges_those_with_gold(found: dict[str, Any]) -> None:
    half, whole = found["what_if"][4], found["what_if"][-1]
    assert (half["theta"], half["tau"], half["rows"], half["gold"]["value"]) == (0.5, 0.5, 2, 0.5)
    assert (whole["tau"], whole["rows"], whole["gold"]["value"]) == (2.0, 4, pytest.approx(2 / 3))


def test_agreement_has_readable_rows_on_its_diagonal(found: dict[str, Any]) -> None:
    c = found["collaborators"]
    assert c["names"] == ["collaborator 1", "collaborator 2"]
    assert (c["num_rows"], c["agreement"]) == (5, [[4, 2], [2, 3]])
    assert c["answers"] == [{"judged": 3, "right": 3}, {"judged": 2, "right": 1}]


def test_agreement_names_the_collaborators_of_the_justification(
    run: Run, round_of: Callable[..., tuple[Step, Step, Step]], labeled: Step, task: Task
) -> None:
    _, selection, gold = round_of("r", schema.GOLD, ROWS)
    named = run.step("named", settings={}, inputs={"drafts/warm_0": "x", "drafts/base_3": "y"}, parts=selection.parts)
    for part in selection.parts:
        named.commit_part(part, Step(run.path("r/justify"), "r/justify", ()).read_part(part, schema.JUSTIFIED))
    assert audited(named, selection, gold, labeled, None, task)["collaborators"]["names"] == ["warm_0", "base_3"]


def test_label_balance_stands_labels_answers_and_accepted_side_by_side(found: dict[str, Any]) -> None:
    assert [(r["label"], r["labeled"], r["answered"], r["accepted"], r["gold"]) for r in found["labels"]] == [
        ("animal", 1, 1, 0, 0), ("food", 1, 2, 1, 2), ("plant", 2, 1, 1, 2),
    ]  # fmt: skip


def test_confusion_counts_gold_against_label(found: dict[str, Any]) -> None:
    assert found["confusion"] == {"labels": ["food", "plant"], "counts": [[1, 0], [1, 1]]}


def test_dev_fold_is_judged_apart_from_a_pool_without_gold(
    round_of: Callable[..., tuple[Step, Step, Step]], labeled: Step, task: Task
) -> None:
    justified, selection, gold = round_of("r", schema.GOLD, [{**row, "gold": None} for row in ROWS])
    dev = round_of("d", schema.GOLD, ROWS[:3])
    found = audited(justified, selection, gold, labeled, dev, task)
    assert found["gold"] is None
    assert found["dev"]["num_rows"] == 3
    assert found["what_if"][4]["gold"] is None
    assert found["what_if"][4]["dev"] == {
        "value": 0.5,
        "low": pytest.approx(0.0945, abs=1e-3),
        "high": pytest.approx(0.9055, abs=1e-3),
    }


def test_pool_whose_gold_is_no_step_is_not_judged(
    round_of: Callable[..., tuple[Step, Step, Step]], labeled: Step, task: Task
) -> None:
    justified, selection, _ = round_of("r", schema.GOLD, ROWS)
    assert audited(justified, selection, None, labeled, None, task)["gold"] is None


def test_numbers_agree_within_their_tolerance_and_have_no_label_balance(
    round_of: Callable[..., tuple[Step, Step, Step]], labeled: Step
) -> None:
    row = {"answers": ["100", "100.5"], "label": "100", "confidence": 0.1, "gold": "100.4"}
    found = audited(*round_of("r", schema.GOLD, [row] * 4), labeled, None, NUMBERS)
    assert found["collaborators"]["agreement"] == [[4, 4], [4, 4]]
    assert found["gold"]["precision"]["value"] == 1
    assert (found["labels"], found["confusion"]) == (None, None)


def test_audit_of_many_rows_is_json_of_bounded_size(
    round_of: Callable[..., tuple[Step, Step, Step]], labeled: Step, task: Task
) -> None:
    def size(num: int) -> int:
        rows = [{**ROWS[i % 3], "confidence": 10.0 ** (-7 + 8 * i / num)} for i in range(num)]
        return len(json.dumps(audited(*round_of(f"r{num}", schema.GOLD, rows), labeled, None, task)))

    assert size(3000) < 1.2 * size(300) < 60_000


def test_pseudo_labels_are_judged_by_the_gold_of_the_rows_the_round_answered(
    round_of: Callable[..., tuple[Step, Step, Step]], step_of: Callable[..., Step], task: Task
) -> None:
    kept: list[Row] = [
        {"answers": [], "label": "plant", "decision": "accepted"},
        {"answers": [], "label": "food", "decision": "accepted"},
        {"answers": [], "label": "animal"},
    ]
    justified, selection, _ = round_of("r", schema.GOLD, kept)
    golds = [
        {"id": "r9", "answer": "food"},
        {"id": "r0", "answer": "plant"},
        {"id": "r1"},
        {"id": "r2", "answer": "food"},
    ]
    totals = totals_of(justified, selection, step_of("more", schema.GOLD, golds, []), task)
    found = pseudo_label_metrics(totals.decided)
    assert (found["precision_all"], found["precision_accepted"]) == (0.5, 1.0)
    assert found["coverage"] == pytest.approx(2 / 3)
