"""Exports of a run of two rounds made by hand: p3 is accepted in round 1, p0 in round 2, the others never."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semievol_ray import schema
from semievol_ray.config import RunConfig
from semievol_ray.core.identity import row_id
from semievol_ray.errors import UserError
from semievol_ray.export import export_data
from semievol_ray.outcomes import open_outcomes, rows_by_part
from semievol_ray.runs import Run
from semievol_ray.stages.reading import read_rows
from semievol_ray.tasks import Task

OPTIONS = ["a plant", "an animal"]
QUESTIONS = {f"p{i}": f"what is thing {i}, in “quotes”?" for i in range(5)}
TREE: dict[str, Any] = {
    "name": "made",
    "task": {"name": "things", "kind": "choice", "instruction": "Say what it is."},
    "data": {"labeled": "labeled.csv", "unlabeled": "unlabeled.csv"},
    "model": "scripted",
    "method": {"collaborators": [{"name": "bare"}, {"name": "warmed", "adapter": "warm"}]},
    "numerics": {"engine": "scripted"},
}
Rounds = Sequence[Mapping[str, tuple[str | None, float | None, str]]]
TWO_ROUNDS: Rounds = (
    {
        "p0": ("A", 0.9, "uncertain"), "p1": (None, None, "unreadable"), "p2": (None, None, "engine_error"),
        "p3": ("B", 0.1, "accepted"), "p4": ("A", 0.8, "uncertain"),
    },
    {"p0": ("B", 0.2, "accepted"), "p1": ("A", 0.7, "uncertain"), "p2": (None, None, "engine_error"),
     "p4": ("A", 0.8, "uncertain")},
)  # fmt: skip


def task_of(tree: Mapping[str, Any]) -> Task:
    return RunConfig.model_validate(tree).resolve_task()


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., str]:
    """made(rounds, tree, annotated) -> the folder of a run with these decisions, in parts of three and two rows."""

    def commit(run: Run, name: str, columns: pa.Schema, *parts: Sequence[Mapping[str, Any]]) -> None:
        step = run.step(name, settings={}, inputs={}, parts=[f"part-{i:05d}" for i in range(len(parts))])
        for part, rows in zip(step.parts, parts, strict=True):
            full = [dict.fromkeys(columns.names) | dict(row) for row in rows]
            step.commit_part(part, pa.Table.from_pylist(full, schema=columns))
        run.commit(step, {})

    def make(rounds: Rounds = TWO_ROUNDS, tree: Mapping[str, Any] = TREE, annotated: Sequence[str] = ()) -> str:
        root, names = str(tmp_path / "run"), list(QUESTIONS)
        ids = {name: row_id("things", QUESTIONS[name], OPTIONS) for name in names}
        with Run.open(root, {"name": tree["name"], "config": tree}) as run:
            asked = [{"id": ids[n], "question": QUESTIONS[n], "options": OPTIONS, "num_copies": 1} for n in names]
            commit(run, "data/unlabeled", schema.UNLABELED, asked[:3], asked[3:])
            for number, told in enumerate(rounds, start=1):
                rows = [
                    [
                        {"id": ids[n], "answers": [told[n][0], "A"], "vote": "A", "vote_share": 0.5,
                         "label": told[n][0], "label_source": "justification", "confidence": told[n][1],
                         "decision": told[n][2], "reason": f"told in round {number}"}
                        for n in of_part if n in told
                    ]
                    for of_part in (names[:3], names[3:])
                ]  # fmt: skip
                for name, columns in (("justify", schema.JUSTIFIED), ("select", schema.SELECTION)):
                    kept = [[{k: v for k, v in row.items() if k in columns.names} for row in part] for part in rows]
                    commit(run, f"rounds/{number:04d}/{name}", columns, *kept)
                    commit(run, f"rounds/{number:04d}/dev/{name}", columns, *kept)
            if annotated:
                people = [{"id": ids[n], "question": QUESTIONS[n], "answer": "A"} for n in annotated]
                commit(run, "data/annotations-0000", schema.LABELED, people)
        return root

    return make


def lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def questions(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = {question: name for name, question in QUESTIONS.items()}
    return [names[row["question"]] for row in rows]


@pytest.mark.parametrize(
    ("which", "expected"), [("accepted", ["p0", "p3"]), ("rejected", ["p1", "p2", "p4"]), ("all", list(QUESTIONS))]
)
def test_export_has_the_rows_that_were_asked_for_in_the_order_of_the_pool(
    made: Callable[..., str], which: Any, expected: list[str]
) -> None:
    found = export_data(made(), which, "jsonl")

    assert questions(lines(found.path)) == expected
    assert (found.num_rows, found.num_left_out) == (len(expected), 0)


def test_export_tells_of_a_row_as_its_last_round_left_it_and_from_which_steps(made: Callable[..., str]) -> None:
    root = made()

    row = lines(export_data(root, "accepted", "jsonl").path)[0]

    assert row["id"] == row_id("things", QUESTIONS["p0"], OPTIONS)
    assert (row["label"], row["decision"], row["round"], row["reason"]) == ("B", "accepted", 2, "told in round 2")
    assert row["confidence"] == pytest.approx(0.2)
    assert (row["vote"], row["vote_share"], row["answers"]) == ("A", 0.5, {"bare": "B", "warmed": "A"})
    assert (row["source"], row["label_source"], row["options"]) == ("pseudo", "justification", OPTIONS)
    steps = {
        name: json.loads(Path(f"{root}/rounds/0002/{name}/step.json").read_text()) for name in ("select", "justify")
    }
    assert row["provenance"] == {"run": "made", **{n: r["committed"]["digest"] for n, r in steps.items()}}


def test_export_as_parquet_holds_the_same_rows_as_json_lines(made: Callable[..., str]) -> None:
    root = made()

    table = pq.read_table(export_data(root, "all", "parquet").path)

    plain = lines(export_data(root, "all", "jsonl").path)
    assert [{**row, "answer": ""} for row in table.to_pylist()] == plain
    assert table.column("answer").null_count == len(plain)


def test_export_as_messages_is_the_conversation_the_trainer_sees(made: Callable[..., str]) -> None:
    found = export_data(made(), "all", "messages")

    rows = lines(found.path)
    task = task_of(TREE)
    assert rows[0]["messages"] == [
        {"role": "system", "content": task.instruction},
        {"role": "user", "content": task.render_question(QUESTIONS["p0"], OPTIONS)},
        {"role": "assistant", "content": task.render_answer("B")},
    ]
    assert rows[0]["metadata"]["decision"] == "accepted"
    assert rows[0]["metadata"]["provenance"]["run"] == "made"
    assert (found.num_rows, found.num_left_out) == (4, 1)  # p2 never had a label


@pytest.mark.parametrize("columns", [{}, {"answer": "label", "question": "source", "options": "vote", "group": "id"}])
def test_export_that_a_person_filled_in_reads_back_as_labels_of_the_same_rows(
    made: Callable[..., str], tmp_path: Path, columns: dict[str, str]
) -> None:
    tree = {**TREE, "data": {**TREE["data"], "columns": columns}}
    rows = lines(export_data(made(tree=tree), "rejected", "jsonl").path)
    answer = columns.get("answer", "answer")
    assert {row[answer] for row in rows} == {""}
    rows[1][answer] = "B"
    filled = tmp_path / "filled.jsonl"
    filled.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    read = list(read_rows(str(filled), task_of(tree), needs_answer=False))

    assert [row.id for row in read] == [row_id("things", QUESTIONS[n], OPTIONS) for n in ("p1", "p2", "p4")]
    assert [row.answer for row in read] == [None, "B", None]


def test_export_of_rejected_rows_leaves_out_what_people_labeled_since(made: Callable[..., str]) -> None:
    root = made(annotated=["p1"])

    assert questions(lines(export_data(root, "rejected", "jsonl").path)) == ["p2", "p4"]
    assert questions(lines(export_data(root, "all", "jsonl").path)) == list(QUESTIONS)


def test_export_that_fails_half_way_leaves_no_file(made: Callable[..., str], tmp_path: Path) -> None:
    root, out = made(), tmp_path / "out.jsonl"
    Path(f"{root}/rounds/0002/select/part-00001.parquet").write_bytes(b"damaged")

    with pytest.raises(UserError, match="damaged"):
        export_data(root, "all", "jsonl", str(out))

    assert list(tmp_path.glob("out*")) == []


def test_rows_of_a_part_need_no_other_part(made: Callable[..., str]) -> None:
    root = made()
    for path in Path(root).rglob("part-00001.parquet"):
        path.unlink()

    assert questions(next(rows_by_part(open_outcomes(root), "all"))) == ["p0", "p1", "p2"]


def test_export_replaces_a_file_only_when_told_to(made: Callable[..., str], tmp_path: Path) -> None:
    root, out = made(), tmp_path / "out.jsonl"
    out.write_text("mine")

    with pytest.raises(UserError, match="--force"):
        export_data(root, "all", "jsonl", str(out))
    assert out.read_text() == "mine"

    assert export_data(root, "all", "jsonl", str(out), force=True).path == str(out)
    assert len(lines(str(out))) == len(QUESTIONS)


def test_export_before_a_round_is_selected_says_so(made: Callable[..., str]) -> None:
    with pytest.raises(UserError, match=r"no round of .* is selected yet"):
        export_data(made(rounds=()), "all", "jsonl")


def test_export_of_a_folder_that_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run directory"):
        export_data(str(tmp_path), "all", "jsonl")


def test_export_to_a_place_that_cannot_be_written_names_it(made: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(UserError, match=str(tmp_path / "file")):
        export_data(made(), "all", "jsonl", str(tmp_path / "file" / "out.jsonl"))
