"""The answer formats, and how a completion becomes one canonical answer with its place in the text.

Invariant: a text that could mean two answers is unreadable (None), never a guess.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from semievol_ray.core import parsing
from semievol_ray.core.parsing import ParsedAnswer as ParsedAnswer


@dataclass(frozen=True)
class Choice:
    """One letter, A for the first of the row's own options; canonical text is the upper-case letter."""

    kind: Literal["choice"] = "choice"


@dataclass(frozen=True)
class Labels:
    """One of a closed set of words, read case-insensitively; canonical text is the label as declared here."""

    labels: tuple[str, ...]
    kind: Literal["labels"] = "labels"

    def __post_init__(self) -> None:
        keys = [parsing.text_key(label) for label in self.labels]
        if not keys or "" in keys or len(set(keys)) < len(keys):
            raise ValueError(f"labels must be non-empty words that differ in more than case, not {list(self.labels)}")


@dataclass(frozen=True)
class Number:
    """A decimal number; canonical text keeps the digits as written, without currency signs, grouping commas and a plus.

    A percentage becomes the fraction it stands for, the point moved two places and no digit lost: "12.5%" is "0.125".
    Two numbers are equal when |a - b| <= relative_tolerance * max(|a|, |b|); at 0 the comparison is exact in decimal.
    """

    relative_tolerance: float = 0.0
    kind: Literal["number"] = "number"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.relative_tolerance) and 0 <= self.relative_tolerance < 1):
            raise ValueError(f"relative_tolerance must be at least 0 and below 1, not {self.relative_tolerance}")


AnswerFormat = Choice | Labels | Number


def parse_answer(fmt: AnswerFormat, text: str, options: Sequence[str] | None) -> ParsedAnswer | None:
    """The answer of a completion, or None when it has none or could mean several.

    The last marker ("Answer:", "the answer is") with a readable answer behind it wins; where none has one the text is
    unreadable; without a marker it is read when one answer stands alone in it. `Choice` needs the row's `options`.
    """
    stop, marked = len(text), False
    for marker in reversed(list(parsing.MARKER.finditer(text))):
        marked = True
        found = _read_marked(fmt, text[:stop], marker.end(), options)
        if found is not None:
            return found
        stop = marker.start()
    return None if marked else _read_bare(fmt, text, options)


def answers_equal(fmt: AnswerFormat, a: str, b: str) -> bool:
    """Whether two canonical answers are the same one; for numbers with a tolerance this is not transitive."""
    if not isinstance(fmt, Number):
        return a == b
    x, y = Decimal(parsing.number_text(a)), Decimal(parsing.number_text(b))
    return x == y or abs(x - y) <= Decimal(str(fmt.relative_tolerance)) * max(abs(x), abs(y))


def canonical_gold(fmt: AnswerFormat, gold: str, options: Sequence[str] | None) -> str:
    """The canonical text of an answer out of a data file; ValueError names the allowed ones.

    For `Choice` a letter, a 1-based position ("1" is A) or an option's own text; a mapping shows as result != gold.
    """
    match fmt:
        case Choice():
            return parsing.gold_letter(gold.strip(), parsing.by_letter(options))
        case Labels():
            by_key = {parsing.text_key(label): label for label in fmt.labels}
            if parsing.text_key(gold) not in by_key:
                raise ValueError(f"{gold!r} is not an answer; allowed: {', '.join(fmt.labels)}")
            return by_key[parsing.text_key(gold)]
        case Number():
            return parsing.number_text(gold)


def _read_marked(fmt: AnswerFormat, text: str, start: int, options: Sequence[str] | None) -> ParsedAnswer | None:
    match fmt:
        case Choice():
            return parsing.marked_letter(text, start, parsing.by_letter(options))
        case Labels():
            return parsing.marked_label(text, start, fmt.labels)
        case Number():
            return parsing.marked_number(text, start)


def _read_bare(fmt: AnswerFormat, text: str, options: Sequence[str] | None) -> ParsedAnswer | None:
    match fmt:
        case Choice():
            return parsing.bare_letter(text, parsing.by_letter(options))
        case Labels():
            return parsing.bare_label(text, fmt.labels)
        case Number():
            return parsing.bare_number(text)
