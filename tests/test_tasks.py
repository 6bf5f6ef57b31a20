"""Tasks: rendering and reading agree, settings are JSON, unknown names are refused, the published headers fit."""

import csv
import json
from pathlib import Path

import pytest

from semievol_ray.core.answers import Choice, Labels, Number
from semievol_ray.errors import ConfigError
from semievol_ray.tasks import BUILTIN, Columns, Task, builtin

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
OPTIONS = ("red", "green", "blue")


@pytest.mark.parametrize("task", BUILTIN.values(), ids=lambda task: task.name)
def test_builtin_task_reads_back_every_answer_it_renders(task: Task) -> None:
    answers = task.format.labels if isinstance(task.format, Labels) else ("A", "B", "C")
    for answer in answers:
        text = task.render_answer(answer)
        parsed = task.parse(text, OPTIONS)
        assert parsed is not None
        assert (parsed.answer, text[parsed.start : parsed.end]) == (answer, answer)
        assert task.canonical_gold(answer, OPTIONS) == answer
        assert [other for other in answers if task.equal(answer, other)] == [answer]


@pytest.mark.parametrize("number", ["1234.50", "-0.07", "007", "1.5e-3"])
def test_number_task_keeps_decimals_in_what_it_renders(number: str) -> None:
    task = Task("sums", "Add.", Number(), max_tokens=16)
    assert task.canonical_gold(number, None) == number
    parsed = task.parse(task.render_answer(number), None)
    assert parsed is not None
    assert parsed.answer == number


def test_render_question_puts_options_where_the_task_says() -> None:
    assert builtin("arc").render_question("Which?", ["x", "y"]) == "Which?\n\nA. x\nB. y"
    assert builtin("fpb").render_question("Which?", ["x", "y"]) == "A. x\nB. y\n\nWhich?"
    assert builtin("wordnet").render_question("a large cat", None) == "a large cat"


def test_render_answer_leaves_braces_of_an_answer_alone() -> None:
    task = Task("braces", "", Labels(("{x}", "y")), max_tokens=4)
    assert task.render_answer("{x}") == "Answer: {x}"


@pytest.mark.parametrize("task", BUILTIN.values(), ids=lambda task: task.name)
def test_task_settings_survive_json(task: Task) -> None:
    assert json.loads(json.dumps(task.settings())) == task.settings()


def test_task_settings_change_with_everything_an_output_depends_on() -> None:
    variants = [
        Task("t", "i", Choice(), max_tokens=8),
        Task("t", "j", Choice(), max_tokens=8),
        Task("t", "i", Number(), max_tokens=8),
        Task("t", "i", Number(0.01), max_tokens=8),
        Task("t", "i", Labels(("x",)), max_tokens=8),
        Task("t", "i", Choice(), max_tokens=9),
        Task("t", "i", Choice(), max_tokens=8, version=2),
        Task("t", "i", Choice(), max_tokens=8, options_first=True),
        Task("t", "i", Choice(), max_tokens=8, answer_template="{answer}"),
        Task("t", "i", Choice(), max_tokens=8, columns=Columns(options="options")),
    ]
    assert len({json.dumps(task.settings()) for task in variants}) == len(variants)


def test_task_with_an_impossible_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"lacks \{answer\}"):
        Task("t", "i", Choice(), answer_template="Answer:", max_tokens=8)
    with pytest.raises(ConfigError, match="max_tokens"):
        Task("t", "i", Choice(), max_tokens=0)


def test_builtin_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'wordnets': did you mean 'wordnet'\?"):
        builtin("wordnets")
    with pytest.raises(ConfigError, match="'chess': built in are arc, fpb, mmlu, wordnet"):
        builtin("chess")


@pytest.mark.parametrize("name", ["arc", "fpb", "mmlu"])
def test_builtin_columns_are_in_the_published_files_and_their_golds_are_canonical(name: str) -> None:
    if not (DATA / name).is_dir():
        pytest.skip("the published splits are not beside the checkout (../shared/data)")
    task = builtin(name)
    with (DATA / name / "unlabeled.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    named = [task.columns.question, task.columns.options, task.columns.answer, task.columns.group]
    assert {column for column in named if column} <= set(rows[0])
    golds = {task.canonical_gold(row["answer"], [str(o) for o in json.loads(row["options"])]) for row in rows}
    assert golds <= set("ABCDE")
