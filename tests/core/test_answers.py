"""Formats, equality and gold answers; any text at all gives a canonical answer or none."""

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol_ray.core.answers import Choice, Labels, Number, answers_equal, canonical_gold, parse_answer

PLANETS = ("Mercury", "Venus", "The Earth", "Mars and its moons.")
KINDS = ("person", "animal", "plant", "New York", "York")
DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def read(fmt: Choice | Labels | Number, text: str, options: tuple[str, ...] | None = None) -> str | None:
    parsed = parse_answer(fmt, text, options)
    return parsed.answer if parsed else None


def test_labels_that_look_like_numbers_keep_their_zeros() -> None:
    agents = Labels(("007", "008", "7"))
    assert [read(agents, text) for text in ("Answer: 007", "Answer: 008", "7")] == ["007", "008", "7"]
    assert not answers_equal(agents, "007", "008")
    assert not answers_equal(agents, "007", "7")


@pytest.mark.parametrize("labels", [(), ("yes", "Yes"), ("yes", " "), ("a b", "A  b")])
def test_labels_that_cannot_be_told_apart_raise(labels: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="differ in more than case"):
        Labels(labels)


@pytest.mark.parametrize(
    ("a", "b", "tolerance", "equal"),
    [
        ("12.5%", "0.125", 0.0, True),
        ("12.5%", "12.5", 0.0, False),
        ("007", "7", 0.0, True),
        ("007", "008", 0.0, False),
        ("1,234.5", "1234.50", 0.0, True),
        ("-5", "5", 0.0, False),
        ("0.1", "0.10000000000000000000000000000000001", 0.0, False),
        ("100", "101", 1e-2, True),
        ("100", "102", 1e-2, False),
        ("0", "0.001", 1e-2, False),
        ("-100", "-99", 1e-2, True),
    ],
)
def test_numbers_equal_within_their_tolerance(a: str, b: str, tolerance: float, equal: bool) -> None:
    fmt = Number(tolerance)
    assert answers_equal(fmt, a, b) is equal
    assert answers_equal(fmt, b, a) is equal


def test_numbers_with_tolerance_are_not_transitive() -> None:
    fmt = Number(1e-2)
    assert answers_equal(fmt, "100", "101")
    assert answers_equal(fmt, "101", "102")
    assert not answers_equal(fmt, "100", "102")


@pytest.mark.parametrize("tolerance", [-0.1, 1.0, float("nan")])
def test_number_impossible_tolerance_raises(tolerance: float) -> None:
    with pytest.raises(ValueError, match="relative_tolerance"):
        Number(tolerance)


@pytest.mark.parametrize(
    ("gold", "letter"),
    [("1", "A"), ("2", "B"), ("3", "C"), ("4", "D"), ("c", "C"), ("(D)", "D"), (" B ", "B"), ("venus", "B")],
)
def test_gold_choice_is_mapped_to_its_letter(gold: str, letter: str) -> None:
    assert canonical_gold(Choice(), gold, PLANETS) == letter


@pytest.mark.parametrize("gold", ["E", "5", "0", "", "Pluto", "AB"])
def test_gold_outside_the_options_raises_with_the_allowed_answers(gold: str) -> None:
    with pytest.raises(ValueError, match="allowed: A, B, C, D, 1 to 4"):
        canonical_gold(Choice(), gold, PLANETS)


def test_gold_that_is_a_position_and_another_options_text_raises() -> None:
    with pytest.raises(ValueError, match="could mean A or B"):
        canonical_gold(Choice(), "2", ("2", "4", "8"))
    assert canonical_gold(Choice(), "2", ("1", "2", "3")) == "B"


def test_gold_label_and_number_are_made_canonical() -> None:
    assert canonical_gold(Labels(KINDS), " new YORK", None) == "New York"
    assert canonical_gold(Number(), "$1,234.50", None) == "1234.50"
    with pytest.raises(ValueError, match="allowed: person, animal"):
        canonical_gold(Labels(KINDS), "mineral", None)
    with pytest.raises(ValueError, match="not a number"):
        canonical_gold(Number(), "yes 3", None)


@given(st.text(alphabet=st.sampled_from("AB answer:is.*()\n-1,5%$=Venus plt#{}\\'"), max_size=60))
def test_parse_of_any_text_is_canonical_or_none(text: str) -> None:
    for fmt, options in ((Choice(), PLANETS), (Labels(KINDS), None), (Number(), None)):
        parsed = parse_answer(fmt, text, options)
        if parsed is not None:
            assert 0 <= parsed.start < parsed.end <= len(text)
            assert canonical_gold(fmt, parsed.answer, options) == parsed.answer


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9))
def test_number_written_with_commas_reads_back_as_itself(value: object) -> None:
    assert answers_equal(Number(), read(Number(), f"Answer: ${value:,}") or "none", str(value))


@pytest.mark.parametrize("task", ["arc", "fpb", "mmlu"])
def test_gold_of_the_published_splits_is_a_letter_of_its_row(task: str) -> None:
    if not (DATA / task).is_dir():
        pytest.skip("the published splits are not beside the checkout (../shared/data)")
    for split in ("labeled", "unlabeled", "test"):
        with (DATA / task / f"{split}.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                options = [str(option) for option in json.loads(row["options"])]
                letter = canonical_gold(Choice(), row["answer"], options)
                expected = "ABCDE"[int(row["answer"]) - 1] if row["answer"].isdigit() else row["answer"]
                assert letter == expected
                if "gt" in row:
                    assert canonical_gold(Choice(), row["gt"], options) == letter
