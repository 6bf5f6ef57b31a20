"""Files of rows as people have them: three formats, three ways to be wrong, each named."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semievol_ray.core.answers import Choice, Labels
from semievol_ray.errors import DataError
from semievol_ray.stages.reading import InputRow, read_rows
from semievol_ray.tasks import Columns, Task

KINDS = Task("kinds", "Say.", Labels(("plant", "animal")), columns=Columns(group="subject"), max_tokens=4)
CHOICE = Task("pick", "Pick.", Choice(), columns=Columns(options="options"), max_tokens=4)
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
