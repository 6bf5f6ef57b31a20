"""The answer formats, and how a completion becomes one canonical answer with its place in the text.

Invariant: a text that could mean two answers is unreadable (None), never a guess.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Literal

from semievol_ray.core import parsing, spans
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


@dataclass(frozen=True)
class Span:
    """A phrase on one line; canonical text is the phrase as written, without marks around it.

    Equal when nothing but case, articles, punctuation and spacing differs; with several golds, when one of them is.
    """

    kind: Literal["span"] = "span"


@dataclass(frozen=True)
class Free:
    """Any text; canonical text is the text as written. Equal as a `Span` is, or by the cosine of embeddings.

    `similarity` is the least cosine of texts that agree; it needs vectors, see `core.similarity`. Without vectors the
    normalised match alone counts.
    """

    similarity: float | None = None
    kind: Literal["free"] = "free"

    def __post_init__(self) -> None:
        if self.similarity is not None and not 0 < self.similarity <= 1:
            raise ValueError(f"similarity must be above 0 and at most 1, not {self.similarity}")


AnswerFormat = Choice | Labels | Number | Span | Free


def parse_answer(fmt: AnswerFormat, text: str, options: Sequence[str] | None) -> ParsedAnswer | None:
    """The answer of a completion, or None when it has none or could mean several.

    The last marker ("Answer:", "the answer is") with a readable answer behind it wins; where none has one the text is
    unreadable; without a marker it is read when one answer stands alone in it. `Choice` needs the row's `options`.
    A `Free` answer is all that stands behind the last line that begins with "Answer:", or else the whole text.
    """
    if isinstance(fmt, Free):
        return _encoded(spans.free_text(text))
    stop, marked = len(text), False
    for marker in reversed(list(parsing.MARKER.finditer(text))):
        marked = True
        found = _read_marked(fmt, text[:stop], marker.end(), options)
        if found is not None:
            return found
        stop = marker.start()
    return None if marked else _read_bare(fmt, text, options)


def answers_equal(fmt: AnswerFormat, a: str, b: str) -> bool:
    """Whether two canonical answers are the same one; with a tolerance or several golds this is not transitive."""
    if isinstance(fmt, Span | Free):
        return not {spans.phrase_key(x) for x in spans.accepted(a)}.isdisjoint(map(spans.phrase_key, spans.accepted(b)))
    if not isinstance(fmt, Number):
        return a == b
    x, y = Decimal(parsing.number_text(a)), Decimal(parsing.number_text(b))
    return x == y or abs(x - y) <= Decimal(str(fmt.relative_tolerance)) * max(abs(x), abs(y))


def canonical_gold(fmt: AnswerFormat, gold: str | Sequence[str], options: Sequence[str] | None) -> str:
    """The canonical text of an answer out of a data file; ValueError names the allowed ones.

    For `Choice` a letter, a 1-based position ("1" is A) or an option's own text; a mapping shows as result != gold.
    For `Number` what stands behind the last "####", where one is. Several golds, a list or for `Span` a JSON list in
    text too, are for `Span` and `Free`: any of them is right, the first is what is trained on.
    """
    listed = spans.accepted(gold) if isinstance(fmt, Span) and isinstance(gold, str) else gold
    several = [listed] if isinstance(listed, str) else list(listed)
    canonical = list(dict.fromkeys(_canonical(fmt, text, options) for text in several))
    if isinstance(fmt, Span | Free) and canonical:
        return spans.encoded(canonical)
    if len(canonical) != 1:
        raise ValueError(f"{gold!r} is {len(canonical)} answers; a {fmt.kind} has one")
    return canonical[0]


def canonical_read(fmt: AnswerFormat, found: ParsedAnswer, options: Sequence[str] | None) -> ParsedAnswer | None:
    """What a parser of the user's own found, in canonical text; None when it is no answer of this format."""
    try:
        return _encoded(ParsedAnswer(_canonical(fmt, found.answer, options), found.start, found.end), fmt)
    except ValueError:
        return None


def trained_text(fmt: AnswerFormat, answer: str) -> str:
    """The text that stands for a canonical answer in a completion: the first of several golds."""
    return spans.accepted(answer)[0] if isinstance(fmt, Span | Free) else answer


def _canonical(fmt: AnswerFormat, gold: str, options: Sequence[str] | None) -> str:
    match fmt:
        case Choice():
            return parsing.gold_letter(gold.strip(), parsing.by_letter(options))
        case Labels():
            label = _by_key(fmt.labels).get(parsing.text_key(gold))
            if label is None:
                raise ValueError(f"{gold!r} is not an answer; allowed: {', '.join(fmt.labels)}")
            return label
        case Number():
            return parsing.number_text(gold.rpartition("####")[2])
        case Span():
            return spans.canonical_span(gold)
        case Free():
            return spans.canonical_free(gold)


@lru_cache(maxsize=64)
def _by_key(labels: tuple[str, ...]) -> dict[str, str]:
    """Label of each text key: made once, for a pool has a gold answer a row."""
    return {parsing.text_key(label): label for label in labels}


def _encoded(found: ParsedAnswer | None, fmt: AnswerFormat | None = None) -> ParsedAnswer | None:
    if found is None or not (fmt is None or isinstance(fmt, Span | Free)):
        return found
    return ParsedAnswer(spans.encoded([found.answer]), found.start, found.end)


def _read_marked(fmt: AnswerFormat, text: str, start: int, options: Sequence[str] | None) -> ParsedAnswer | None:
    match fmt:
        case Choice():
            return parsing.marked_letter(text, start, parsing.by_letter(options))
        case Labels():
            return parsing.marked_label(text, start, fmt.labels)
        case Number():
            return parsing.marked_number(text, start)
        case Span() | Free():
            return _encoded(spans.marked_span(text, start))


def _read_bare(fmt: AnswerFormat, text: str, options: Sequence[str] | None) -> ParsedAnswer | None:
    match fmt:
        case Choice():
            return parsing.bare_letter(text, parsing.by_letter(options))
        case Labels():
            return parsing.bare_label(text, fmt.labels)
        case Number():
            return parsing.bare_number(text)
        case Span() | Free():
            return _encoded(spans.bare_span(text))
