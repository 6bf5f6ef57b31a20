"""Where an answer stands in a text: the letter, the label or the number that a completion means.

Invariant: what is returned lies in the text at [start, end), and two different answers side by side are None.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from string import ascii_uppercase


@dataclass(frozen=True)
class ParsedAnswer:
    """A canonical answer and the half-open character span [start, end) of the raw text that it was read from."""

    answer: str
    start: int
    end: int


# "Answer: ", "**Answer:** ", "the answer is ", "\boxed{", "#### 42": what follows is meant as the answer.
MARKER = re.compile(
    r"(?i:\banswer(?:\s+(?:choice|option))?[\s*_\"']*(?:[:：]|\b(?:is|would be|should be|must be)\b)[\s*_:：]*)"
    r"|\\boxed\{(?:\\text\{)?|^####(?=[ \t]*[-−$]*[0-9.,]+\s*$)",
    re.MULTILINE,
)
_OPEN = r"[\s*_\"'`“‘(\[{]*+"
_OPENING = re.compile(_OPEN)
_NO_WORD = r"(?![^\W_]|['’\-]\w)"
# An answer stops at a closing mark, the end or punctuation; it ends there or before a word no noun phrase goes on with.
_STOPS = re.compile(r"[*_)\]}\"'`”’]+(?!\w)|[ \t]*(?:\Z|[.,;:!?](?!\w)|[\n(]|[-–—]\s)")
_ENDS = re.compile(_STOPS.pattern + r"|[ \t]+(?i:is|because|since|as|for|which)\b")
_ALONE = re.compile(r"[\s.*_\"'`”’)\]}]*\Z")
_JOIN = r"[*_)\]\"']*\s*(?:[,/&]\s*(?:(?:and|or)\s+)?|(?:and|or)\s+)"


def text_key(text: str) -> str:
    """The form in which labels and options are compared: white space collapsed, case folded."""
    return " ".join(text.split()).casefold()


def _last_line(text: str) -> int:
    return text.rstrip().rfind("\n") + 1


def _opened(text: str, start: int) -> int:
    """Where the words begin after white space, quotes, brackets and emphasis."""
    head = _OPENING.match(text, start)
    return head.end() if head else start


def _alone(text: str, found: ParsedAnswer | None) -> ParsedAnswer | None:
    return found if found and _ALONE.match(text, found.end) else None


def _one(found: Iterable[ParsedAnswer]) -> ParsedAnswer | None:
    """The last of the mentions when all are of one answer."""
    mentions = list(found)
    return mentions[-1] if len({mention.answer for mention in mentions}) == 1 else None


_HEAD_LETTER = re.compile(
    rf"{_OPEN}(?:(?i:(?:the\s+)?(?:option|choice|letter))\s+)?{_OPEN}(?P<letter>[A-Za-z]){_NO_WORD}(?!\.\w)"
)
_LINE_LETTER = re.compile(
    rf"^[ \t*_\"'`]*(?:(?i:option|choice)\s)?[(\[]?(?P<letter>[A-Za-z]){_NO_WORD}(?:[)\].:*_\"'`]+(?!\w)|[ \t]*$)",
    re.MULTILINE,
)
_PARENTHESISED = re.compile(r"(?<!not )\([ ]?(?P<letter>[A-Z])[ ]?\)")
_SECOND_LETTER = re.compile(_JOIN + r"\(?[A-Z]" + _NO_WORD)


def by_letter(options: Sequence[str] | None) -> dict[str, str]:
    """The options by their letters; ValueError for none or more than 26."""
    if not options or len(options) > len(ascii_uppercase):
        raise ValueError(f"a choice needs 1 to {len(ascii_uppercase)} options, not {len(options or ())}")
    return dict(zip(ascii_uppercase, options, strict=False))


def marked_letter(text: str, start: int, letters: dict[str, str]) -> ParsedAnswer | None:
    """The choice that the text from `start`, behind "Answer:", begins with; the article in "a dog" is no letter."""
    option = _head_option(text, start, letters, _ENDS)
    if option is not None:
        return option
    head = _HEAD_LETTER.match(text, start)
    if head is None or head["letter"].upper() not in letters or _SECOND_LETTER.match(text, head.end()):
        return None
    letter = head["letter"].upper()
    article = letter in "AI" and not _ENDS.match(text, head.end())  # "the answer is a dog", "the answer is I think ..."
    if article and not _head_option(text, head.end(), {letter: letters[letter]}, _ENDS):
        return None
    return ParsedAnswer(letter, *head.span("letter"))


def bare_letter(text: str, letters: dict[str, str]) -> ParsedAnswer | None:
    """The choice of a text without a marker: an option's own text, a letter that opens a line or is parenthesised."""
    lines, option = _mentions(_LINE_LETTER, text, letters), _head_option(text, 0, letters, _ALONE)
    if option is not None:
        return option
    if any(_SECOND_LETTER.match(text, mention.end) for mention in lines):
        return None
    if lines:
        return _one(lines) or (_alone(text, lines[-1]) if lines[-1].start >= _last_line(text) else None)
    return _one(_mentions(_PARENTHESISED, text, letters))


def _mentions(pattern: re.Pattern[str], text: str, letters: dict[str, str]) -> list[ParsedAnswer]:
    found = [ParsedAnswer(m["letter"].upper(), *m.span("letter")) for m in pattern.finditer(text)]
    return [mention for mention in found if mention.answer in letters]


def _head_option(text: str, start: int, letters: dict[str, str], end: re.Pattern[str]) -> ParsedAnswer | None:
    """The option whose own text stands at `start`, the longest that fits; None when two options read the same.

    An option that is itself one of the letters is left to them.
    """
    at, found = _opened(text, start), list[ParsedAnswer]()
    for letter, option in letters.items():
        words = option.strip(" \t\n.*_\"'`“”‘’([{").split()
        pattern = re.compile(r"\s+".join(re.escape(word) for word in words) + r"(?!\w)", re.IGNORECASE)
        match = pattern.match(text, at) if words and "".join(words).upper() not in letters else None
        if match and end.match(text, match.end()):
            found.append(ParsedAnswer(letter, *match.span()))
    return _one(option for option in found if option.end == max(other.end for other in found))


def gold_letter(gold: str, letters: dict[str, str]) -> str:
    """The letter that a data file's answer means; ValueError when it means none or two."""
    if gold.strip("(). ").upper() in letters:
        return gold.strip("(). ").upper()
    meant = {letter for letter, option in letters.items() if gold and text_key(option) == text_key(gold)}
    if re.fullmatch(r"[1-9][0-9]?", gold) and int(gold) <= len(letters):
        meant.add(ascii_uppercase[int(gold) - 1])
    if len(meant) == 1:
        return meant.pop()
    problem = f"could mean {' or '.join(sorted(meant))}" if meant else "is not an answer"
    raise ValueError(f"{gold!r} {problem}; allowed: {', '.join(letters)}, 1 to {len(letters)}, or an option's text")


@lru_cache(maxsize=64)
def _label_pattern(labels: tuple[str, ...], before: str) -> re.Pattern[str]:
    longest_first = sorted(enumerate(labels), key=lambda item: -len(item[1]))
    words = "|".join(f"(?P<w{i}>" + r"\s+".join(map(re.escape, label.split())) + ")" for i, label in longest_first)
    return re.compile(rf"{before}(?<![^\W_])(?<!\w-)(?:{words}){_NO_WORD}", re.IGNORECASE)


def marked_label(text: str, start: int, labels: tuple[str, ...]) -> ParsedAnswer | None:
    """The label that the text from `start` begins with, or the one it mentions."""
    return _head_label(labels, text, start, must_stop=False) or _sole_label(labels, text, start)


def bare_label(text: str, labels: tuple[str, ...]) -> ParsedAnswer | None:
    """The label that stands first by itself, or the one mentioned, or the one alone on the last line."""
    first, last = (_head_label(labels, text, at, must_stop=True) for at in (0, _last_line(text)))
    return first or _sole_label(labels, text, 0) or _alone(text, last)


def _head_label(labels: tuple[str, ...], text: str, start: int, must_stop: bool) -> ParsedAnswer | None:
    head = _label_pattern(labels, _OPEN + r"(?:(?:an?|the)\s+)?" + _OPEN).match(text, start)
    if head is None or (must_stop and not _STOPS.match(text, head.end())):
        return None
    if _label_pattern(labels, _JOIN + r"(?:(?:an?|the)\s+)?").match(text, head.end()):
        return None
    return _label(labels, head)


def _sole_label(labels: tuple[str, ...], text: str, start: int) -> ParsedAnswer | None:
    """The one label that the text from `start` mentions; "not a plant" is no mention."""
    pattern = _label_pattern(labels, r"(?P<negated>\b(?:not|never|no)\s+(?:(?:an?|the)\s+)?)?")
    return _one(_label(labels, mention) for mention in pattern.finditer(text, start) if mention["negated"] is None)


@lru_cache(maxsize=16)
def _group_names(num: int) -> tuple[str, ...]:
    return tuple(f"w{i}" for i in range(num))


def _label(labels: tuple[str, ...], match: re.Match[str]) -> ParsedAnswer:
    index = next(i for i, found in enumerate(match.group(0, *_group_names(len(labels)))[1:]) if found is not None)
    return ParsedAnswer(labels[index], *match.span(f"w{index}"))


# Not inside a word, a fraction, a list without spaces or a version; "12M" and "37,7" are not read as 12 and 37.
_NUMBER = re.compile(
    r"(?<![\w.])(?<![0-9][,/])(?P<sign>[-+−]?)(?:\\?[$€£][ ]?(?P<minus>[-−]?))?"
    r"(?P<digits>(?>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?>(?:[eE][-+]?[0-9]{1,3})?))"
    r"(?!\w|[.,/][0-9])(?P<percent>\s?(?:\\?%|percent\b))?"
)
_SECOND_NUMBER = re.compile(rf"(?:{_JOIN}|\s*(?:[-–—]|to\b))\s*[$€£]?[0-9]")
_OPERATOR = r"(?:[-+−*/×xX÷^·]|\\(?:times|cdot|div)\b|(?:plus|minus|times|divided by)\b)"
_UNIT = r"(?:[ ]?[^\W\d_]++){0,3}?"
_FURTHER_NUMBER = re.compile(rf"{_UNIT}[)*_ \t]*{_OPERATOR}[ \t]*[(\\$€£]*[0-9]|[ \t]+[$€£]?[0-9]")
_TERM = rf"[(\s]*[-+−]?(?:\\?[$€£][ ]?)?[0-9][0-9.,]*%?{_UNIT}[)\s]*"
_WORKING = re.compile(rf"(?:(?:[0-9 .,$€£%+*/×xX÷^·()−-]*|{_TERM}(?:{_OPERATOR}{_TERM})+)=)+ *")


def _canonical_number(match: re.Match[str]) -> str:
    negative = (match["sign"] in ("-", "−")) != bool(match["minus"])
    digits = match["digits"].replace(",", "")
    if match["percent"]:
        exact = Decimal(digits).as_tuple()
        digits = format(Decimal((0, exact.digits, int(exact.exponent) - 2)), "f")
    return "-" + digits if negative else digits


def number_text(text: str) -> str:
    """The canonical text of a number and nothing else; ValueError otherwise."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a number; allowed: digits, with a sign, grouping commas, $ or %")
    return _canonical_number(match)


def _number(match: re.Match[str]) -> ParsedAnswer:
    return ParsedAnswer(_canonical_number(match), *match.span())


def marked_number(text: str, start: int) -> ParsedAnswer | None:
    """The number that the answer's line begins with, or that its leading "3 + 4 =" comes to, or the one it mentions.

    None where that number goes on, as "3 + 4", "3 × 10^5", "1 234" and "3 1/2" do, or another one is worked out of it.
    """
    start = _opened(text, start)
    line = text[: (text + "\n").index("\n", start)]
    working = _WORKING.match(line, start)
    head = _head_number(line, working.end() if working else start)
    if head is None:
        return _sole_number(line, start)
    if _SECOND_NUMBER.match(line, head.end) or _FURTHER_NUMBER.match(line, head.end):
        return None
    return None if not working and _is_operand(line, head) else head


def _is_operand(line: str, head: ParsedAnswer) -> bool:
    """Whether another number is worked out of the one that a line begins with: "20% of 50 = 10"."""
    equals = line.rfind("=")
    result = _sole_number(line, equals + 1) if equals >= head.end else None
    return bool(result and result.answer != head.answer and _NUMBER.search(line, head.end, equals))


def bare_number(text: str) -> ParsedAnswer | None:
    """The one value that the text mentions, or the number alone on the last line."""
    return _sole_number(text, 0) or _alone(text, _head_number(text, _last_line(text)))


def _head_number(text: str, start: int) -> ParsedAnswer | None:
    head = _NUMBER.match(text, _opened(text, start))
    return _number(head) if head else None


def _sole_number(text: str, start: int) -> ParsedAnswer | None:
    """The one value that the text from `start` mentions."""
    found = [_number(match) for match in _NUMBER.finditer(text, start)]
    if any(_FURTHER_NUMBER.match(text, number.end) for number in found):
        return None
    return found[-1] if len({Decimal(number.answer) for number in found}) == 1 else None
