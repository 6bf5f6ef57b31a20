"""Tasks: rendering and reading agree, settings are JSON, unknown names are refused, the published headers fit."""

import csv
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from semievol_ray.core.answers import Choice, Free, Labels, Number, Span
from semievol_ray.core.patterns import PatternParser
from semievol_ray.errors import ConfigError
from semievol_ray.tasks import BUILTIN, Columns, Task, anchored, builtin, resolve, with_columns

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
OPTIONS = ("red", "green", "blue")
KINDS = BUILTIN["wordnet"].format.labels if isinstance(BUILTIN["wordnet"].format, Labels) else ()
ANSWERS: dict[str, tuple[str, ...]] = {
    "choice": ("A", "B", "C"),
    "number": ("-0.07", "1234.50", "42"),
    "span": ("the New York Jets", "12-10", "9/11"),
}
MODULE = """
from semievol_ray.core.parsing import ParsedAnswer
from semievol_ray.tasks import Columns, Labels, Task

def last_word(text, options):
    word = text.split()[-1] if text.split() else ""
    return ParsedAnswer(word, text.rindex(word), len(text)) if word else None

TEAMS = Task("teams", "Which team?", Labels(("billing", "network")), max_tokens=8, parser=last_word)
NAMES = ["billing"]
"""


@pytest.mark.parametrize("task", BUILTIN.values(), ids=lambda task: task.name)
def test_builtin_task_reads_back_every_answer_it_renders(task: Task) -> None:
    for answer in (answers := ANSWERS.get(task.format.kind, KINDS)):
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
        Task("t", "i", Span(), max_tokens=8),
        Task("t", "i", Free(), max_tokens=8),
        Task("t", "i", Free(0.9), max_tokens=8),
        Task("t", "i", Number(), max_tokens=8, parser=PatternParser("(.*)")),
        Task("t", "i", Number(), max_tokens=8, parser=PatternParser("([0-9]*)")),
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
    with pytest.raises(ConfigError, match=r"'chess': built in are arc, fpb, mmlu, .*drop, wordnet; .*module:ATTRIBUTE"):
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


@pytest.mark.parametrize(
    ("name", "gold", "canonical"),
    [
        ("gsm8k", "She has 3 + 4 = <<3+4=7>>7 pears.\n#### 1,007", "1007"),
        ("convfinqa", "14.1%", "0.141"),
        ("convfinqa", "-25587", "-25587"),
        ("pubmedqa", "maybe", "C"),
        ("mmlu_pro", "J", "J"),
        ("drop", '["Jets", "New York Jets"]', '["Jets", "New York Jets"]'),
        ("drop", "Jets", "Jets"),
    ],
)
def test_builtin_task_reads_the_golds_of_its_public_files(name: str, gold: str, canonical: str) -> None:
    options = ["yes", "no", "maybe", *(str(number) for number in range(20, 27))]
    assert builtin(name).canonical_gold(gold, options) == canonical


def test_convfinqa_answers_within_one_percent_agree() -> None:
    assert builtin("convfinqa").equal("0.1413", "14.1%")
    assert not builtin("convfinqa").equal("0.144", "14.1%")
    assert not builtin("gsm8k").equal("100", "100.5")


def test_task_with_several_golds_trains_on_the_first_and_accepts_any() -> None:
    task = builtin("drop")
    gold = task.canonical_gold(["the Jets", "New York"], None)
    assert task.render_answer(gold) == "Answer: the Jets"
    assert [task.equal(answer, gold) for answer in ("Jets", "new york.", "Giants")] == [True, True, False]


def test_task_that_would_not_read_its_own_answers_is_refused() -> None:
    with pytest.raises(ConfigError, match="the answer '7' is written 'Team: 7', in which the task reads 'Team: 7'"):
        Task("t", "i", Span(), answer_template="Team: {answer}", max_tokens=8)
    with pytest.raises(ConfigError, match="'plant' is written 'Answer: plant', in which the task reads nothing"):
        Task("t", "i", Labels(("plant",)), max_tokens=8, parser=PatternParser("<(.*)>"))


def test_task_parser_answers_are_made_canonical_or_unreadable() -> None:
    task = Task("t", "i", Labels(("plant", "food")), max_tokens=8, parser=PatternParser(r"Answer: (\w+)"))
    text = "Answer: FOOD, I think"
    parsed = task.parse(text, None)
    assert parsed is not None
    assert (parsed.answer, text[parsed.start : parsed.end]) == ("food", "FOOD")
    assert task.parse("Answer: stone", None) is None
    assert task.parse("plant", None) is None


def test_users_task_is_read_from_the_module_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(MODULE)
    task = resolve("own:TEAMS", str(tmp_path))
    parsed = task.parse("I say network", None)
    assert parsed is not None
    assert parsed.answer == "network"
    assert resolve(anchored("own:TEAMS", str(tmp_path))) == task
    assert anchored("arc", str(tmp_path)) == "arc"


def test_users_task_settings_change_with_the_source_of_its_module(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(MODULE)
    before = resolve("own:TEAMS", str(tmp_path)).settings()
    (tmp_path / "own.py").write_text(MODULE + "# changed")
    after = resolve("own:TEAMS", str(tmp_path)).settings()
    assert json.loads(json.dumps(before)) == before
    assert {key for key in before if before[key] != after[key]} == {"module"}


def test_users_task_travels_to_a_process_that_has_no_such_file(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(MODULE)
    task = with_columns(resolve("own:TEAMS", str(tmp_path)), {"question": "body"})
    (tmp_path / "task.pickle").write_bytes(pickle.dumps(task))
    (tmp_path / "own.py").unlink()
    code = (
        "import pickle, sys; task = pickle.load(open(sys.argv[1], 'rb')); "
        "print(task.parse('I say network', None).answer, task.columns.question)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "task.pickle")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["network", "body"]


@pytest.mark.parametrize(
    ("name", "source", "told"),
    [
        ("own:TEAM", MODULE, "has no 'TEAM'; did you mean own:TEAMS"),
        ("own:NAMES", MODULE, "own:NAMES is a list; it has to be a semievol_ray.tasks.Task"),
        ("own:X", "a = 1\nb = a / 0\n", r"own.py, line 2: ZeroDivisionError"),
        ("own:X", "a = (\n", r"own.py, line 1: SyntaxError"),
        ("own:X", "import beside_it_there_is_none\n", "No module named 'beside_it_there_is_none'.*in the same file"),
        ("other_than_own:X", "", "there is no other_than_own.py in .*no installed module"),
        ("not a module:X", "", "is written module:ATTRIBUTE"),
    ],
)
def test_users_task_that_cannot_be_had_is_refused_with_the_reason(
    name: str, source: str, told: str, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(source)
    with pytest.raises(ConfigError, match=told):
        resolve(name, str(tmp_path))


def test_users_task_of_an_installed_module_differing_on_a_node_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "installed_tasks.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    (elsewhere := tmp_path / "elsewhere").mkdir()
    pickled = pickle.dumps(resolve("installed_tasks:TEAMS", str(elsewhere)))
    assert pickle.loads(pickled).name == "teams"
    (tmp_path / "installed_tasks.py").write_text(MODULE + "# of another version")
    with pytest.raises(ConfigError, match="not the one that the driver has"):
        pickle.loads(pickled)
