"""Prompt tokens that vLLM looked up in its prefix cache, and those that it found there, as vLLM counts them.

Invariant: one thread adds and one takes; what was taken is not taken again.
"""

from collections.abc import Callable

Add = Callable[[int, int], None]
"""Called with tokens that were looked up, and those of them that the cache held."""


def ignored(num_looked_up: int, num_found: int) -> None:
    """An `Add` for who does not want to know."""


class Prefixes:
    """The counts of one engine, taken a part at a time."""

    def __init__(self) -> None:
        self._looked_up = self._found = 0
        self._taken = (0, 0)

    def add(self, num_looked_up: int, num_found: int) -> None:
        self._found += num_found
        self._looked_up += num_looked_up

    def taken(self) -> tuple[int, int]:
        """Tokens looked up and found since the last call."""
        now, before = (self._looked_up, self._found), self._taken
        self._taken = now
        return now[0] - before[0], now[1] - before[1]
