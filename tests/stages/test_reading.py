"""Files of rows as people have them: three formats, three ways to be wrong, each named."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semievol_ray.core.answers import Choice, Free, Labels, Number
from semievol_ray.errors import DataError
from semievol_ray.stages.reading import InputRow, read_rows, reading_note, source_digest
from semievol_ray.tasks import Columns, Task, builtin

KINDS = Task("kinds", "Say.", Labels(("plant", "animal")), columns=Columns(group="subject"), max_tokens=4)
CHOICE = Task("pick", "Pick.", Choice(), columns=Columns(options="options"), max_tokens=4)
FREE = Task("say", "Say.", Free(), max_tokens=4)
SUM = Task("sum", "Add.", Number(), max_tokens=4)
CHAT = [
    {"role": "system", "content": "Be terse."},
    {"role": "user", "content": "Name a tree."},
    {"role": "assistant", "content": "Oak."},
    {"role": "user", "content": [{"type": "text", "text": "Another."}]},
]
ROWS: list[dict[str, Any]] = [
    {"question": "a tree, tall\nand old", "answer": "Plant", "subject": "s1"},
    {"question": 'a "quoted" cat', "answer": " animal ", "subject": None},
]


def _write(folder: Path, suffix: str, rows: list[dict[str, Any]]) -> str:
    path = folder / f"rows{suffix}"
    match suffix:
        case ".jsonl":
            path.write_text("\n\n".join(json.dumps(row) for row in rows) + "\n")
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case ".csv":
            cells = [[str(v or "").replace('"', '""') for v in row.values()] for row in rows]
            lines = [",".join(rows[0])] + [",".join(f'"{cell}"' for cell in line) for line in cells]
            path.write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def _read(path: str, task: Task = KINDS, *, needs_answer: bool = True) -> list[InputRow]:
    return list(read_rows(path, task, needs_answer=needs_answer))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_rows_of_each_format_read_alike_with_canonical_answers(suffix: str, tmp_path: Path) -> None:
    rows = _read(_write(tmp_path, suffix, ROWS))
    assert [(r.question, r.answer, r.group) for r in rows] == [
        ("a tree, tall\nand old", "plant", "s1"),
        ('a "quoted" cat', "animal", None),
    ]
    assert len({r.id for r in rows}) == 2


def test_csv_row_after_one_with_a_line_break_has_the_line_it_begins_on(tmp_path: Path) -> None:
    assert [r.line for r in _read(_write(tmp_path, ".csv", ROWS))] == [2, 4]


def test_options_are_read_from_json_text_and_from_lists(tmp_path: Path) -> None:
    row = {"question": "which?", "answer": "2", "options": ["first", 2.5]}
    parquet_row = {**row, "options": ["first", "2.5"]}
    texts = [_write(tmp_path, ".csv", [{**row, "options": json.dumps(row["options"])}])]
    texts += [_write(tmp_path, ".jsonl", [row]), _write(tmp_path, ".parquet", [parquet_row])]
    read = [_read(path, CHOICE)[0] for path in texts]
    assert {(tuple(r.options or ()), r.answer) for r in read} == {(("first", "2.5"), "B")}
    assert len({r.id for r in read}) == 1


@pytest.mark.parametrize(
    ("suffix", "text", "told"),
    [
        (".csv", "question,answer\na,plant\nb,stone\n", "line 3.*'stone'.*plant, animal"),
        (".csv", "question,answer\na,plant\nb,\n", "line 3.*'answer' is empty"),
        (".csv", "question,answer\n,plant\n", "line 2.*'question' is empty"),
        (".csv", "question,answer\na,plant,more\n", "line 2.*more or fewer fields"),
        (".csv", "question,answer\n'a\n", "line 2.*more or fewer fields"),
        (".csv", "text,answer\na,plant\n", "'question' is missing.*'text', 'answer'.*data.columns"),
        (".csv", "question,answer\n", "no rows"),
        (".csv", "", "no rows"),
        (".jsonl", '{"question": "a", "answer": "plant"}\n{"question"\n', "line 2.*not valid JSON"),
        (".jsonl", '["a"]\n', "line 1.*object was expected, not list"),
        (".parquet", "not parquet", "cannot be read as parquet"),
        (".xlsx", "", "are .csv, .jsonl or .parquet"),
    ],
)
def test_wrong_file_is_refused_naming_file_place_and_remedy(suffix: str, text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_text(text)
    with pytest.raises(DataError, match=told) as caught:
        _read(str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("options", ["red or blue", '["one"]', '{"a": 1}', '[["x"], ["y"]]', ""])
def test_options_that_are_no_list_of_two_or_more_are_refused(options: str, tmp_path: Path) -> None:
    path = _write(tmp_path, ".csv", [{"question": "a", "answer": "A", "options": options}])
    with pytest.raises(DataError, match=r"line 2: column 'options' is not a list"):
        _read(path, CHOICE)


def test_missing_file_and_foreign_encoding_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        _read(str(tmp_path / "absent.csv"))
    (tmp_path / "latin.csv").write_bytes("question,answer\ncaf\xe9,plant\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        _read(str(tmp_path / "latin.csv"))


@pytest.mark.parametrize("columns", ["question", "question,answer"])
def test_rows_without_answers_read_where_none_is_needed(columns: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(f"{columns}\n{'a' if columns == 'question' else 'a,'}\n")
    assert [r.answer for r in _read(str(tmp_path / "rows.csv"), needs_answer=False)] == [None]


@pytest.mark.parametrize(
    ("row", "question", "answer", "told"),
    [
        ({"messages": [{"role": "user", "content": "a tree"}]}, "a tree", None, "chat messages"),
        (
            {"messages": [*CHAT, {"role": "assistant", "content": "Elm."}]},
            "User: Name a tree.\n\nAssistant: Oak.\n\nUser: Another.",
            "Elm.",
            "system turns are left out",
        ),
        ({"prompt": "a tree", "completion": " Elm. "}, "a tree", "Elm.", "completion the answer"),
        ({"prompt": "a tree"}, "a tree", None, "prompt is the question"),
        ({"prompt": "a tree", "answer": "Elm"}, "a tree", "Elm", "prompt is the question"),
        (
            {"prompt": CHAT[:2], "completion": [{"role": "assistant", "content": "Elm"}]},
            "Name a tree.",
            "Elm",
            "prompt is the question",
        ),
        ({"instruction": "Sort it.", "input": "b a", "output": "a b"}, "Sort it.\n\nb a", "a b", "alpaca"),
        ({"instruction": "Sort it.", "input": "", "output": "a b"}, "Sort it.", "a b", "alpaca"),
    ],
)
def test_layout_of_other_tools_is_known_by_its_columns_and_said(
    row: dict[str, Any], question: str, answer: str | None, told: str, tmp_path: Path
) -> None:
    path = _write(tmp_path, ".jsonl", [row])
    read = _read(path, FREE, needs_answer=answer is not None)
    assert [(r.question, r.answer) for r in read] == [(question, answer)]
    assert told in (reading_note(path, FREE) or "")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_alpaca_rows_of_each_format_read_alike(suffix: str, tmp_path: Path) -> None:
    rows = [{"instruction": "Which kind?", "input": text, "output": "Plant"} for text in ("an oak", "an elm")]
    read = _read(_write(tmp_path, suffix, rows))
    assert [(r.question, r.answer) for r in read] == [(f"Which kind?\n\n{r['input']}", "plant") for r in rows]


def test_file_with_the_tasks_own_columns_is_read_as_it_stands(tmp_path: Path) -> None:
    path = _write(tmp_path, ".jsonl", [{"question": "a tree", "answer": "plant", "prompt": "p", "messages": []}])
    assert [(r.question, r.answer) for r in _read(path)] == [("a tree", "plant")]
    assert reading_note(path, KINDS) is None


def test_named_columns_that_a_chat_file_lacks_are_missing(tmp_path: Path) -> None:
    named = Task("kinds", "Say.", Labels(("plant", "animal")), columns=Columns(question="text"), max_tokens=4)
    with pytest.raises(DataError, match="'text', 'answer' is missing; the file has 'messages'"):
        _read(_write(tmp_path, ".jsonl", [{"messages": CHAT}]), named)


def test_whole_replies_of_a_chat_file_are_read_as_completions(tmp_path: Path) -> None:
    replies = ["It is 3 and 4.\nAnswer: 7", "7.0", "3 + 4 = 7\n#### 7"]
    rows = [{"prompt": f"3 + 4? {i}", "completion": reply} for i, reply in enumerate(replies)]
    assert [r.answer for r in _read(_write(tmp_path, ".jsonl", rows), SUM)] == ["7", "7.0", "7"]


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ("hello", "is not a list of turns"),
        ([{"role": "tool", "content": "x"}], "a turn with role 'tool'"),
        ([{"role": "user", "content": [{"type": "image"}]}], "content is no text"),
        ([{"role": "system", "content": "x"}], "no turn of the user"),
        ([*CHAT, {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}], "2 turns follow"),
        (CHAT, "column 'messages' is empty"),
        ([*CHAT, {"role": "assistant", "content": "stone"}], "column 'messages': 'stone' is not an answer"),
    ],
)
def test_chat_that_cannot_be_read_is_refused_naming_the_line(messages: Any, told: str, tmp_path: Path) -> None:
    fine = {"messages": [{"role": "user", "content": "an oak"}, {"role": "assistant", "content": "plant"}]}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(fine) + "\n" + json.dumps({"messages": messages}))
    with pytest.raises(DataError, match=f"line 2.*{told}"):
        _read(str(path))


def test_drop_rows_read_with_their_passage_and_every_gold(tmp_path: Path) -> None:
    row = {
        "passage": "The Jets won 12-10.",
        "question": "Who won?",
        "answers_spans": {"spans": ["Jets", "The New York Jets"], "types": ["span", "span"]},
    }
    (read,) = _read(_write(tmp_path, ".parquet", [row]), builtin("drop"))
    assert read.question == "The Jets won 12-10.\n\nWho won?"
    assert read.answer is not None
    assert [builtin("drop").equal(a, read.answer) for a in ("new york jets", "Giants")] == [True, False]


def test_several_golds_in_a_csv_are_a_json_list(tmp_path: Path) -> None:
    path = _write(tmp_path, ".csv", [{"question": "Who?", "answer": json.dumps(["Jets", "New York"])}])
    assert [r.answer for r in _read(path, builtin("drop"))] == ['["Jets", "New York"]']
    with pytest.raises(DataError, match=r"line 1.*'answer'.*is 2 answers; a number has one"):
        _read(_write(tmp_path, ".jsonl", [{"question": "3 + 4?", "answer": [7, 8]}]), SUM)


@pytest.mark.parametrize(
    ("options", "gold", "letter", "mapped"),
    [
        ({"text": ["x", "y"], "label": ["1", "2"]}, "2", "B", True),
        ({"A": "x", "B": "y", "C": "z"}, "C", "C", False),
        (["x", "y"], 2.0, "B", True),
        (["x", "y"], "b", "B", False),
        (["x", "y"], "y", "B", True),
    ],
)
def test_options_and_golds_of_public_data_sets_are_read(
    options: object, gold: object, letter: str, mapped: bool, tmp_path: Path
) -> None:
    (row,) = _read(_write(tmp_path, ".jsonl", [{"question": "?", "options": options, "answer": gold}]), CHOICE)
    assert (row.answer, row.mapped) == (letter, mapped)


def test_empty_cells_of_pandas_are_no_answer(tmp_path: Path) -> None:
    path = _write(tmp_path, ".parquet", [{"question": "a", "answer": float("nan")}])
    assert [r.answer for r in _read(path, needs_answer=False)] == [None]


def test_digest_of_a_file_is_of_its_bytes_and_of_a_hub_name_of_the_name(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("one")
    before = source_digest(str(path))
    path.write_text("two")
    assert source_digest(str(path)) != before
    assert source_digest("hf://o/n@1/train") != source_digest("hf://o/n@2/train")
