"""The WordNet set: which glosses become questions, and that the split is balanced, disjoint and repeatable."""

import csv
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.wordnet import ANSWER_OF_FILE_NUMBER, FOLDER, ROWS_PER_SPLIT, Gloss, definition, derive, parse_line

HEADER = "  1 You may use this.  \n  2   \n  3 Copyright by somebody.  \n"
PLAIN = "{offset:08d} {number} n 01 word 0 001 @ 00000001 n 0000 | {gloss}  \n"


def line(number: str, gloss: str) -> str:
    return PLAIN.format(offset=7, number=number, gloss=gloss)


def fragment(num_glosses: int) -> str:
    """A hand-written data.noun: the header and `num_glosses` usable glosses for each kind."""
    numbers = [number for number in ANSWER_OF_FILE_NUMBER for _ in range(num_glosses)]
    return HEADER + "".join(line(number, f"the thing called {i}") for i, number in enumerate(numbers))


def read(path: Path) -> list[Gloss]:
    with path.open(encoding="utf-8", newline="") as file:
        return [Gloss(row["question"], row["answer"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("gloss", "expected"),
    [
        ('a bird that cannot fly; "the dodo"; "a kiwi runs"', "a bird that cannot fly"),
        ("a large vessel; used at sea", "a large vessel; used at sea"),
        ('a kind of soup: "borscht is one"', "a kind of soup"),
        ("two  spaces and a comma,", "two spaces and a comma"),
    ],
)
def test_definition_gloss_with_examples_keeps_what_precedes_them(gloss: str, expected: str) -> None:
    assert definition(gloss) == expected


def test_parse_line_known_kind_gives_question_and_answer() -> None:
    assert parse_line(line("05", 'a bird that cannot fly; "the dodo"')) == Gloss("a bird that cannot fly", "animal")


@pytest.mark.parametrize(
    "text",
    [
        "  1 You may use | this.",
        line("03", "a kind outside the ten"),
        line("05", "two words"),
        line("05", "an animal that flies"),
        line("05", "one of the animals that fly"),
        line("08", "found in the bodies of birds"),
        line("18", "(ethnic slur) offensive word for a neighbour"),
    ],
)
def test_parse_line_no_usable_question_gives_none(text: str) -> None:
    assert parse_line(text) is None


def test_derive_fragment_gives_balanced_disjoint_splits(tmp_path: Path) -> None:
    (tmp_path / "data.noun").write_text(fragment(num_glosses=7))
    derive(tmp_path, tmp_path / "out", {"labeled": 10, "unlabeled": 30, "test": 20})
    splits = {name: read(tmp_path / "out" / f"{name}.csv") for name in ("labeled", "unlabeled", "test")}
    for name, each in (("labeled", 1), ("unlabeled", 3), ("test", 2)):
        assert Counter(row.answer for row in splits[name]) == dict.fromkeys(ANSWER_OF_FILE_NUMBER.values(), each)
    questions = [row.question for rows in splits.values() for row in rows]
    assert len(set(questions)) == len(questions)


def test_derive_lines_in_another_order_writes_the_same_files(tmp_path: Path) -> None:
    lines = fragment(num_glosses=4).splitlines(keepends=True)
    outputs = []
    for name, text in (("a", lines), ("b", lines[:3] + lines[:2:-1])):
        (tmp_path / "data.noun").write_text("".join(text))
        derive(tmp_path, tmp_path / name, {"labeled": 10, "test": 20})
        outputs.append([(tmp_path / name / f"{split}.csv").read_bytes() for split in ("labeled", "test")])
    assert outputs[0] == outputs[1]


def test_derive_repeated_definition_is_kept_once_and_an_ambiguous_one_never(tmp_path: Path) -> None:
    extra = line("05", "the thing called 0") + line("05", "seen at night") + line("18", "Seen at night")
    (tmp_path / "data.noun").write_text(fragment(num_glosses=2) + extra)
    derive(tmp_path, tmp_path / "out", {"test": 20})
    questions = [row.question for row in read(tmp_path / "out" / "test.csv")]
    assert len(set(questions)) == 20
    assert "seen at night" not in {question.casefold() for question in questions}


def test_derive_too_few_glosses_names_the_kind_and_the_split(tmp_path: Path) -> None:
    (tmp_path / "data.noun").write_text(fragment(num_glosses=1))
    with pytest.raises(ValueError, match="animal: 1 glosses are left for test, 2 are needed"):
        derive(tmp_path, tmp_path / "out", {"test": 20})


def test_derive_header_becomes_the_licence_without_line_numbers(tmp_path: Path) -> None:
    (tmp_path / "data.noun").write_text(fragment(num_glosses=1))
    derive(tmp_path, tmp_path / "out", {"test": 10})
    assert (tmp_path / "out" / "LICENSE").read_text() == "You may use this.\n\nCopyright by somebody.\n"


def test_committed_files_have_the_promised_rows_and_no_question_twice() -> None:
    splits = {name: read(FOLDER / f"{name}.csv") for name in ROWS_PER_SPLIT}
    assert {name: len(rows) for name, rows in splits.items()} == ROWS_PER_SPLIT
    questions = {row.question.casefold() for rows in splits.values() for row in rows}
    assert len(questions) == sum(ROWS_PER_SPLIT.values())
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 500_000
