"""Phrases and free texts: where they stand, when they are the same, and that what is rendered is read back."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from semievol_ray.core.answers import (
    Free,
    Span,
    answers_equal,
    canonical_gold,
    canonical_read,
    parse_answer,
    trained_text,
)
from semievol_ray.core.parsing import ParsedAnswer
from semievol_ray.core.spans import accepted, phrase_key

PIECES = [
    "Answer:", "the answer is", "not", "\n", "St. Louis. He", "because", ", which", "Word. Then", "**", "(", ")", '"',
    "1.5", "#### 7", "\\boxed{", "}", "is", ".", "[\"a\"]", "é", "Über", ":", "\t", "_", "U.S.",
]  # fmt: skip
TEXTS = st.one_of(st.text(max_size=30), st.lists(st.sampled_from(PIECES), max_size=8).map(" ".join))


def read(fmt: Span | Free, text: str) -> str | None:
    parsed = parse_answer(fmt, text, None)
    return parsed.answer if parsed else None


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("Answer: New York Jets", "New York Jets"),
        ("Answer: New York Jets.", "New York Jets"),
        ("**Answer:** *the  Jets*", "the Jets"),
        ("Answer: **B-52**\nIt is a plane.", "B-52"),
        ('Answer: "Jets".', "Jets"),
        ('Answer: the "Jets"', 'the "Jets"'),
        ("(Answer: Jets)", "Jets"),
        ("Answer: John (Jack) Smith", "John (Jack) Smith"),
        ("Answer: Tom Brady. He threw three passes.", "Tom Brady"),
        ("Answer: in 1990. The war had ended.", "in 1990"),
        ("The answer is St. Louis Rams.", "St. Louis Rams"),
        ("The answer is Paris, which is the capital", "Paris"),
        ("Answer: the U.S.", "the U.S."),
        ("I first said: the answer is Rome. Answer: Paris", "Paris"),
        ("Answer: Paris\nThe answer is", "Paris"),
        (r"so it is $\boxed{\text{Tom {B} Brady}}$.", "Tom {B} Brady"),
        ("#### 42", "42"),
        ("Tom Brady", "Tom Brady"),
        ("  Tom Brady.\n", "Tom Brady"),
        ("a", "a"),
    ],
)
def test_span_stated_plainly_is_read(text: str, span: str) -> None:
    assert read(Span(), text) == span


@pytest.mark.parametrize(
    "text", ["", " ", "Answer:", "Answer: ...", "The answer is not Rome", "Rome\nParis", "It is Rome. Paris is not."]
)
def test_span_not_stated_is_unreadable(text: str) -> None:
    assert read(Span(), text) is None


@pytest.mark.parametrize(
    ("text", "free"),
    [
        ("It fell\nbecause of rain.", "It fell\nbecause of rain."),
        ("I think.\n**Answer:** It fell.\n\nTwice.", "It fell.\n\nTwice."),
        ("Answer: the answer is *here*", "the answer is *here*"),
        ("Answer: one\nFinal answer: two\nAnswer: ", "two"),
        ("Answer:", None),
        ("reasons\nAnswer:\n", None),
        (" \n", None),
    ],
)
def test_free_text_is_what_stands_behind_the_last_answer_line(text: str, free: str | None) -> None:
    assert read(Free(), text) == free


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ("the U.S.", "us", True),
        ("New-York  Jets!", "new york jets", True),
        ("1,000.0", "1000", True),
        ("$7", "7", True),
        ("12.5%", "12.5", True),
        ("Straße", "STRASSE", True),
        ("007", "7", True),
        ("A", "the", False),
        ("3/4", "34", False),
        ("12-10", "1210", False),
        ("1.5", "15", False),
        ("-5", "5", False),
        ("two", "2", False),
        ("", "-", False),
    ],
)
def test_spans_are_equal_when_nothing_but_form_differs(a: str, b: str, equal: bool) -> None:
    assert answers_equal(Span(), a, b) is equal
    assert answers_equal(Free(), b, a) is equal


def test_several_golds_are_one_text_and_any_is_right() -> None:
    gold = canonical_gold(Span(), ["the Jets", "New York.", "the Jets"], None)
    assert accepted(gold) == ("the Jets", "New York")
    assert canonical_gold(Span(), gold, None) == gold
    assert [answers_equal(Span(), answer, gold) for answer in ("Jets", "new york", "Giants")] == [True, True, False]


def test_free_text_that_is_a_json_list_stays_one_answer() -> None:
    text = '["red", "blue"]'
    gold = canonical_gold(Free(), text, None)
    assert trained_text(Free(), gold) == text
    assert read(Free(), f"Answer: {text}") == gold
    assert not answers_equal(Free(), "red", gold)
    assert answers_equal(Free(), "red", canonical_gold(Free(), ["red", "blue"], None))


@pytest.mark.parametrize("gold", ["", " ", "...", "Answer:"])
def test_gold_span_without_words_raises(gold: str) -> None:
    with pytest.raises(ValueError, match="is not an answer; allowed: any words"):
        canonical_gold(Span(), gold, None)


def test_gold_of_no_answers_raises() -> None:
    with pytest.raises(ValueError, match="is 0 answers"):
        canonical_gold(Span(), [], None)


@given(TEXTS)
def test_canonical_answer_rendered_is_read_back_as_itself(text: str) -> None:
    for fmt in (Span(), Free()):
        found = canonical_read(fmt, ParsedAnswer(text, 0, len(text)), None)
        if found is None:
            continue
        shown = trained_text(fmt, found.answer)
        assert [read(fmt, rendered) for rendered in (f"Answer: {shown}", shown)] == [found.answer] * 2


@given(TEXTS)
def test_parsed_answer_stands_in_the_text_at_its_place(text: str) -> None:
    for fmt in (Span(), Free()):
        if parsed := parse_answer(fmt, text, None):
            assert " ".join(text[parsed.start : parsed.end].split()) == " ".join(
                trained_text(fmt, parsed.answer).split()
            )


@given(TEXTS)
@example("¼×")
def test_phrase_key_is_its_own_key_for_words(text: str) -> None:
    assert phrase_key(phrase_key(text)) == phrase_key(text)
