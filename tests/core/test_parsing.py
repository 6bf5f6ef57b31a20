"""Reading answers: every case of the method's list, what must stay unreadable, and where the answer stands."""

import pytest

from semievol_ray.core.answers import Choice, Labels, Number, parse_answer

PLANETS = ("Mercury", "Venus", "The Earth", "Mars and its moons.")
KINDS = ("person", "animal", "plant", "New York", "York")


def read(fmt: Choice | Labels | Number, text: str, options: tuple[str, ...] | None = None) -> str | None:
    parsed = parse_answer(fmt, text, options)
    return parsed.answer if parsed else None


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Answer: B.", "B"),
        ("**Answer:** B", "B"),
        ("Answer: **B**", "B"),
        ("**Answer**: __B__", "B"),
        ("Answer: 'B'", "B"),
        ("The answer is B", "B"),
        ("The correct answer is (b).", "B"),
        ("Final answer: option C", "C"),
        ("Answer:\n\nD", "D"),
        ("ANSWER IS: C", "C"),
        ("answer: (first I weigh A, then B) so it cannot be A ... Answer: C", "C"),
        ("The answer is A at first sight, but Venus is hotter. The answer is B because of its air.", "B"),
        ("Answer: B\n\nThe answer is explained above.", "B"),
        (r"So we get \boxed{D}", "D"),
        (r"So we get $\boxed{\text{D}}$.", "D"),
        ("(B)", "B"),
        ("b", "B"),
        (" b.\n", "B"),
        ("B", "B"),
        ("**B**", "B"),
        ("B.", "B"),
        ("B) Venus", "B"),
        ("B: Venus, not (A)", "B"),
        ("Option B", "B"),
        ("It turns slowly, so I choose (B).", "B"),
        ("It is not (A) but (B)", "B"),
        ("Both look hot.\nVenus has the thicker air.\nB", "B"),
        ("A. is too small\nB. is right\n\n**B**", "B"),
        ("Answer: A", "A"),
        ("Answer: a", "A"),
        ("Answer: A - Mercury", "A"),
        ("Answer: A Mercury", "A"),
        ("The answer is A because it is near.", "A"),
        ("Answer: B Venus", "B"),
        ("Venus", "B"),
        ("venus.", "B"),
        ('"Venus"', "B"),
        ("The  earth", "C"),
        ("Answer: Mars and its moons", "D"),
        ("The answer is Venus, since it is hot", "B"),
    ],
)
def test_choice_stated_plainly_is_read(text: str, letter: str) -> None:
    assert read(Choice(), text, PLANETS) == letter


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n",
        "Answer:",
        "Answer: E",
        "Answer: none of these",
        "A dog is an animal.",
        "A planet near the sun",
        "Answer: A dog",
        "The answer is a planet",
        "The answer is not B",
        "(B) is tempting. The answer is not that one.",
        "Answer: A and B",
        "Answer: (A) or (C)",
        "Answer: B, C",
        "(A) and (B)",
        "It could be (A) or (B).",
        "A. Mercury\nB. Venus\nC. The Earth",
        "Because it is hot",
        "Answer: Venusian",
        "Answer: b.c. 400",
        "I don't know",
        "Answer: Venus and Mercury",
    ],
)
def test_choice_not_stated_is_unreadable(text: str) -> None:
    assert read(Choice(), text, PLANETS) is None


def test_choice_first_person_is_not_the_ninth_letter() -> None:
    options = tuple(f"item {i}" for i in range(10))
    assert read(Choice(), "The answer is I think unclear", options) is None
    assert read(Choice(), "I think so", options) is None
    assert read(Choice(), "Answer: I.", options) == "I"


@pytest.mark.parametrize(
    ("options", "text", "letter"),
    [
        (("no", "no, because it is cold"), "Answer: no, because it is cold", "B"),
        (("no", "no, because it is cold"), "Answer: no.", "A"),
        (("2", "4", "8"), "Answer: 4", "B"),
        (("2", "4", "8"), "Answer: 4.5", None),
        (("A cat", "A dog"), "Answer: A dog", "B"),
        (("C. elegans", "E. coli"), "E. coli", "B"),
        (("A only", "B only", "A and B"), "Answer: A and B", "C"),
        (("AB", "B", "A"), "Answer: B", "B"),
        (("same", "same"), "same", None),
        (("...", "yes"), "...", None),
        (("f(x) = 2*(x+1)?", "[0, 1]"), "Answer: [0, 1]", "B"),
    ],
)
def test_choice_option_text_is_its_letter(options: tuple[str, ...], text: str, letter: str | None) -> None:
    assert read(Choice(), text, options) == letter


def test_choice_without_options_raises() -> None:
    with pytest.raises(ValueError, match="needs 1 to 26 options"):
        parse_answer(Choice(), "B", None)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Answer: New York", "New York"),
        ("answer: new  york.", "New York"),
        ("Answer: York", "York"),
        ("**Answer:** *animal*", "animal"),
        ("Answer: a plant, which no animal is", "plant"),
        ("Answer: it is an animal", "animal"),
        ("Answer: not a plant but an animal", "animal"),
        ("animal", "animal"),
        ("Animal.", "animal"),
        ("an animal\n\nplant", "animal"),
        ("person, someone who is no animal", "person"),
        ("This describes a plant.", "plant"),
        ("A plant is a plant.", "plant"),
        ("It is either a plant or an animal.\nanimal", "animal"),
        ("_person_", "person"),
        ("Plants eat no animal but a person may", "person"),
        ("anımal", "animal"),
    ],
)
def test_label_stated_plainly_is_read(text: str, label: str) -> None:
    assert read(Labels(KINDS), text) == label


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plants",
        "plant-based",
        "a person's",
        "animal plant person",
        "plant or animal",
        "plant, animal",
        "Answer: plant and animal",
        "Answer: not a plant",
        "a mineral",
    ],
)
def test_label_unclear_is_unreadable(text: str) -> None:
    assert read(Labels(KINDS), text) is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Answer: $ 1,234.5", "1234.5"),
        ("Answer: $1,234.50.", "1234.50"),
        ("Answer: 12.5%", "0.125"),
        ("Answer: 12.5 percent", "0.125"),
        (r"Answer: 12.5\%", "0.125"),
        ("Answer: 0.125", "0.125"),
        ("Answer: 100%", "1.00"),
        ("Answer: 007", "007"),
        ("Answer: -5", "-5"),
        ("Answer: −5", "-5"),
        ("Answer: -$5.25", "-5.25"),
        ("Answer: $-5.25", "-5.25"),
        ("Answer: -3%", "-0.03"),
        ("Answer: +5", "5"),
        ("Answer: .5", ".5"),
        ("Answer: 5.00", "5.00"),
        ("Answer: 1.5e-3", "1.5e-3"),
        ("Answer: **42**", "42"),
        ("Answer: 42 apples out of 50", "42"),
        ("Answer: the total is $ 7", "7"),
        ("Answer: 42 apples (2 of 50 left)", "42"),
        ("Answer: 42 because 6 x 7 = 42", "42"),
        ("Answer: 42 when x = 3", "42"),
        ("Answer: 3 + 4 = 7", "7"),
        ("Answer: 2 x 12 = 24", "24"),
        ("Answer: $5 x 4 = $20.", "20"),
        ("Answer: **$5 × 4 = $20** a day", "20"),
        (r"Answer: 5 \times 4 = 20", "20"),
        ("Answer: 5 hours * 3 = 15 hours", "15"),
        ("Answer: (50 apples - 8 apples) / 2 = 21", "21"),
        ("Answer: 5 times 4 plus 1 = 21", "21"),
        ("Answer: 3 + 4 = 7 = 7", "7"),
        ("Answer: 3 + 4 = 7 pears, so 7.", "7"),
        ("Answer: 3 and 4 give more. Answer: 7", "7"),
        ("She has 3 and buys 4.\n#### 7", "7"),
        (r"\boxed{1,000}", "1000"),
        ("42", "42"),
        ("It comes to 42.", "42"),
        ("3 boxes of 4 pears\n12", "12"),
        ("007", "007"),
    ],
)
def test_number_stated_plainly_is_read(text: str, number: str) -> None:
    assert read(Number(), text) == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Answer: unknown",
        "3 apples and 4 pears",
        "Answer: between 5 and 7",
        "Answer: 5-7",
        "Answer: 3 + 4",
        "Answer: the total is 2 + 2",
        "Answer: 5 hours * 3",
        "Answer: 3 plus 4",
        "Answer: 3 × 10^5",
        "Answer: 10^10",
        "Answer: 1 234",
        "Answer: $1 234",
        "Answer: 3 1/2",
        "Answer: about 1 1/2 cups",
        "Answer: 24 = 2 x 12",
        "Answer: 3 + 4 = 7 or 8",
        "Answer: 20% of 50 = 10",
        "Answer: 20 because 5 * 3 = 15",
        "2 + 2",
        "Answer: 5 or 6",
        "Answer: 1/2",
        "Answer: 12M",
        "Answer: 37,7",
        "Answer: 1.2.3",
        "#### Step 1\nadd 3 and 4",
        "model2b",
    ],
)
def test_number_unclear_is_unreadable(text: str) -> None:
    assert read(Number(), text) is None


@pytest.mark.parametrize(
    ("fmt", "text", "options", "written"),
    [
        (Choice(), "I think A, but **Answer:** B.", PLANETS, "B"),
        (Choice(), "Answer: the  letter  c", PLANETS, "c"),
        (Choice(), "Answer: the  earth.", PLANETS, "the  earth"),
        (Choice(), " (B) Venus", PLANETS, "B"),
        (Labels(KINDS), "Answer: a New\nYork", None, "New\nYork"),
        (Number(), "Answer: $ -1,234.5 or so", None, "$ -1,234.5"),
        (Number(), "Answer: (12.5 %)", None, "12.5 %"),
    ],
)
def test_parsed_span_covers_what_was_written(
    fmt: Choice | Labels | Number, text: str, options: tuple[str, ...] | None, written: str
) -> None:
    parsed = parse_answer(fmt, text, options)
    assert parsed is not None
    assert text[parsed.start : parsed.end] == written


def test_parse_of_long_blank_text_is_quick() -> None:
    blank = " " * 200_000
    for fmt, options in ((Choice(), PLANETS), (Labels(KINDS), None), (Number(), None)):
        assert read(fmt, f"Answer:{blank}!", options) is None
        assert read(fmt, blank + "!", options) is None
