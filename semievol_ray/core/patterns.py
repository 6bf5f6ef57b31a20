"""A parser that a person writes as a regular expression whose group 1 is the answer.

Invariant: the last match wins, and only the end of a long text is searched, so that a search stays short.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from semievol_ray.core.parsing import ParsedAnswer

LONGEST_TEXT = 4_000
"""Characters, from the end of a completion, in which a pattern is looked for."""

_ESCAPE_OR_SET = re.compile(r"\\.|\[\^?\]?[^\]]*\]", re.DOTALL)
_INNERMOST = re.compile(r"\(([^()]*)\)")
_REPEAT = re.compile(r"(?<![*+}])[*+](?!\+)|\{[0-9]*,[0-9]*\}(?!\+)")  # a possessive one never tries again


@dataclass(frozen=True)
class PatternParser:
    """Reads group 1 of a regular expression (Python's syntax); ValueError for one that is wrong or may run for ages."""

    pattern: str

    def __post_init__(self) -> None:
        try:
            num_groups = _compiled(self.pattern).groups
        except re.error as error:
            raise ValueError(f"pattern {self.pattern!r} is not a regular expression: {error}") from None
        if num_groups < 1:
            raise ValueError(f"pattern {self.pattern!r} has no group: put ( ) around the answer")
        if _repeats_a_repeat(self.pattern):
            raise ValueError(
                f"pattern {self.pattern!r} repeats a group that repeats itself, which can take for ages; write the "
                "outer repeat as *+ or ++, which never tries again"
            )

    def __call__(self, text: str, options: Sequence[str] | None) -> ParsedAnswer | None:  # noqa: ARG002
        """The answer in a completion as it is written there, None without a match."""
        start = max(0, len(text) - LONGEST_TEXT)
        found = [m for m in _compiled(self.pattern).finditer(text, start) if (m[1] or "").strip()]
        return ParsedAnswer(found[-1][1], *found[-1].span(1)) if found else None


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _repeats_a_repeat(pattern: str) -> bool:
    """Whether a group with a repeat in it is repeated, as in (a+)+, which may take time exponential in the text."""
    bare = _ESCAPE_OR_SET.sub("x", pattern)
    while group := _INNERMOST.search(bare):
        inner = bool(_REPEAT.search(group[1])) and not group[1].startswith("?>")
        after = bare[group.end() :]
        if inner and _REPEAT.match(after):
            return True
        bare = bare[: group.start()] + ("x*" if inner else "x") + after
    return False
