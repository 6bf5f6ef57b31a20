"""A person's regular expression as a parser: what it reads, and which ones are refused."""

import pytest

from semievol_ray.core.patterns import LONGEST_TEXT, PatternParser


def test_pattern_reads_the_last_match_that_is_not_blank() -> None:
    text = "code: AB12; code: CD34; code: "
    parsed = PatternParser(r"code: (\w*)")(text, None)
    assert parsed is not None
    assert (parsed.answer, text[parsed.start : parsed.end]) == ("CD34", "CD34")


def test_pattern_looks_at_the_end_of_a_long_text_alone() -> None:
    far, near = "x=1" + " " * LONGEST_TEXT, " " * LONGEST_TEXT + "x=1"
    assert PatternParser("x=([0-9])")(far, None) is None
    parsed = PatternParser("x=([0-9])")(near, None)
    assert parsed is not None
    assert near[parsed.start : parsed.end] == "1"


@pytest.mark.parametrize("pattern", ["(a+)+b", r"((?:\w*,)*)", "(x{2,})+(y)", "([^)]+)*z", "((a+))*", "(a{1,3})+"])
def test_pattern_that_may_take_ages_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="take for ages"):
        PatternParser(pattern)


@pytest.mark.parametrize(
    "pattern", [r"(\d+(?:,\d{3})*)", "((?:a+)++)", r"\(([^)]*)\)", r"(\+[0-9]+)", "((?>a+))*", "((?:ab{3})+)"]
)
def test_pattern_whose_repeats_are_apart_is_accepted(pattern: str) -> None:
    assert PatternParser(pattern)("nothing here", None) is None
