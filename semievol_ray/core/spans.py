"""Answers that are words of no fixed set: where they stand in a text, when two say the same, several golds as one text.

Invariant: the canonical text of an answer, rendered behind "Answer: " or alone, is read back as itself.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache

from semievol_ray.core.parsing import MARKER, ParsedAnswer

_ARTICLES = frozenset(("a", "an", "the"))
_DASH = "-‐-―−/"
_JOINED = re.compile(rf"(?<=\w)[{_DASH}](?=\w)")
_BETWEEN_DIGITS = re.compile(r"(?<=[0-9])[^\w\s](?=[0-9])")
_AMOUNT = re.compile(
    r"[\"'“‘(\[]*(?P<minus>[-−]?)\+?[$€£]?(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)(?:\.(?P<rest>[0-9]+))?[^\w\s]*"
)
# A new sentence after a word of four letters, a figure or a closing mark ("St. Louis", "J. Smith" go on), or a reason.
_CUT = re.compile(
    r"(?:(?<=\w{4})|(?<=[0-9)\]\"'”’*]))\.[\"'”’)\]*_]*\s+(?=[\"“(]?[A-ZÀ-Þ])|,\s+(?=(?i:because|which|since)\b)"
)
_NEGATED = re.compile(r"(?i)(?:\bis|\bbe)[\s*_:：]*\Z")
_PAIRS = (('"', '"'), ("'", "'"), ("`", "`"), ("“", "”"), ("‘", "’"), ("«", "»"), ("(", ")"), ("[", "]"), ("{", "}"))
_FREE_MARKER = re.compile(
    r"^[ \t]*(?P<open>[*_]{1,3})?(?i:(?:final[ \t]+)?answer)[ \t]*[*_]*[ \t]*[:：](?(open)[*_]*)\s*", re.MULTILINE
)


def accepted(answer: str) -> tuple[str, ...]:
    """The texts that a canonical answer stands for: itself, or those in it when it is a JSON list of texts."""
    if answer.startswith('["') and answer.endswith('"]'):
        try:
            texts = json.loads(answer)
        except ValueError:
            return (answer,)
        if all(isinstance(text, str) and text for text in texts):
            return tuple(texts)
    return (answer,)


def encoded(texts: Sequence[str]) -> str:
    """One canonical text for the different `texts`: the only one itself, else a JSON list, the one to train on first.

    A single text that would pass for such a list is written as a list of one.
    """
    different = list(dict.fromkeys(texts))
    alone = len(different) == 1 and accepted(different[0]) == (different[0],)
    return different[0] if alone else json.dumps(different, ensure_ascii=False)


@lru_cache(maxsize=4096)
def phrase_key(text: str) -> str:
    """The form in which phrases are compared: no case, articles, punctuation or spacing; "1,000.0" is "1000".

    Dashes and slashes part words, and so do marks between digits: "3/4" is not "34". What would leave nothing stays.
    """
    visible = "".join(" " if unicodedata.category(c).startswith("C") else c for c in text)
    folded = unicodedata.normalize("NFKC", visible).casefold().split()
    words = [word for token in folded for piece in _JOINED.split(token) for word in _words(piece)]
    return " ".join([word for word in words if word not in _ARTICLES] or words or folded)


def _words(piece: str) -> list[str]:
    amount = _AMOUNT.fullmatch(piece)
    if amount and (amount["whole"] or amount["rest"]):
        whole, rest = amount["whole"].replace(",", "").lstrip("0") or "0", (amount["rest"] or "").rstrip("0")
        number = f"{whole}.{rest}" if rest else whole
        return [f"-{number}" if amount["minus"] and number != "0" else number]
    parted = _BETWEEN_DIGITS.sub(" ", piece).split()
    if len(parted) > 1:
        return [word for part in parted for word in _words(part)]
    return "".join(c for c in piece if not unicodedata.category(c).startswith("P")).split()


def marked_span(text: str, start: int) -> ParsedAnswer | None:
    """The phrase from `start`, behind "Answer:", to the end of its line, box or sentence; "is not x" is no answer."""
    if _NEGATED.search(text[max(0, start - 40) : start]) and re.compile(r"(?i)not\b").match(text, start):
        return None
    line = text.find("\n", start) % (len(text) + 1)  # the end of the text where no line ends
    end = _brace(text, start, line) if text.startswith("{", start - 1) else line
    cut = _CUT.search(text, start, end)
    return _phrase(text, start, cut.start() if cut else end)


def bare_span(text: str) -> ParsedAnswer | None:
    """The phrase that a text of one line and one sentence is."""
    found = _phrase(text, 0, len(text))
    return None if found is None or "\n" in text.strip() or _CUT.search(text.strip()) else found


def free_text(text: str) -> ParsedAnswer | None:
    """Everything behind the last line that begins with "Answer:", or the whole text; outer white space is not in it.

    Where such lines have nothing behind them the text is unreadable: it was cut off.
    """
    stop, markers = len(text), list(_FREE_MARKER.finditer(text))
    for marker in reversed(markers):
        if text[marker.end() : stop].strip():
            return _stripped(text, marker.end(), stop)
        stop = marker.start()
    return None if markers else _stripped(text, 0, stop)


def canonical_span(gold: str) -> str:
    """A phrase out of a data file, on one line and without the marks at which a completion would end; ValueError."""

    def read(text: str) -> ParsedAnswer | None:
        marker = next(iter(reversed(list(MARKER.finditer(text)))), None)
        if marker is None:
            return bare_span(text)
        return marked_span(text, marker.end()) or read(text[: marker.start()])

    return _settled(_CUT.sub(" ", " ".join(gold.split())), read, lambda text: _CUT.sub(" ", text))


def canonical_free(gold: str) -> str:
    """A free text out of a data file, as a completion with it is read; ValueError for a blank one."""
    return _settled(gold.strip(), free_text, lambda text: text)


def _settled(text: str, read: Callable[[str], ParsedAnswer | None], mended: Callable[[str], str]) -> str:
    """What `read` gives back unchanged, with "Answer: " before it and without; every turn shortens the text."""
    written = text
    while True:
        found = [read(text), read(f"Answer: {text}")]
        if found[0] is None or found[1] is None:
            raise ValueError(f"{written!r} is not an answer; allowed: any words")
        shorter = min((mended(one.answer) for one in found if one), key=len)
        if shorter == text:
            return text
        text = shorter


def _stripped(text: str, start: int, end: int) -> ParsedAnswer | None:
    inner = text[start:end].strip()
    at = start + len(text[start:end]) - len(text[start:end].lstrip())
    return ParsedAnswer(inner, at, at + len(inner)) if inner else None


def _phrase(text: str, start: int, end: int) -> ParsedAnswer | None:
    """The words of text[start:end] without the quotes, brackets, emphasis and full stop around them."""
    while (shorter := _trimmed(text, start, end)) != (start, end):
        start, end = shorter
    if not any(c.isalnum() for c in text[start:end]):
        return None
    return ParsedAnswer(" ".join(text[start:end].split()), start, end)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    inner = text[start:end]
    if not inner:
        return start, end
    first, last, rest = inner[0], inner[-1], inner[1:-1]
    if first.isspace() or first in "*_:：":
        return start + 1, end
    if last.isspace() or last in "*_,;:" or (last == "." and "." not in inner.split()[-1].rstrip(".")):
        return start, end - 1
    for opening, closing in _PAIRS:
        if first == opening and last == closing and opening not in rest and closing not in rest:
            return start + 1, end - 1
        if first == opening and closing not in inner[1:]:
            return start + 1, end
        if last == closing and opening not in inner[:-1]:
            return start, end - 1
    return start, end


def _brace(text: str, start: int, end: int) -> int:
    """Where the brace that stands open at `start` closes, `end` where it does not."""
    depth = 1
    for at in range(start, end):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return at
    return end
