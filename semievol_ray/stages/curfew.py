"""The deadline inside an engine's process: parts that cannot end before it are not begun, those under way are left.

Invariant: what `kept` returns was done whole; None says that the part is left as it was.
"""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
NUM_REMEMBERED = 16


class Curfew:
    """What the parts of one engine took so far, by kind of work, against a deadline (seconds since the epoch)."""

    def __init__(self, deadline: float | None, clock: Callable[[], float] = time.time) -> None:
        self._deadline, self._clock = deadline, clock
        self._seconds: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=NUM_REMEMBERED))

    def expected(self, kind: str) -> float:
        """The longest of the last parts of this kind, of any kind before its first, 0 before all."""
        known = self._seconds.get(kind) or [s for kept in self._seconds.values() for s in kept]
        return max(known, default=0.0)

    async def kept(self, kind: str, work: Callable[[], Awaitable[T]]) -> T | None:
        """What `work()` returns; None where it would not end before the deadline, or did not."""
        if self._deadline is None:
            return await work()
        began = self._clock()
        if began >= self._deadline or began + self.expected(kind) > self._deadline:
            return None
        limit = asyncio.timeout(self._deadline - began)
        try:
            async with limit:
                done = await work()
        except TimeoutError:
            if limit.expired():
                return None
            raise
        self._seconds[kind].append(self._clock() - began)
        return done
