"""A gate before an engine: many parts at once, or one alone.

Invariant: who waits to be alone lets nobody in before it, so that it does not wait for ever.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """Used in one event loop."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._num_inside = self._num_waiting_alone = 0  # -1 inside: one, alone

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Beside others."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._num_inside >= 0 and not self._num_waiting_alone)
            self._num_inside += 1
        try:
            yield
        finally:
            await self._leave(-1)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """With nobody else inside."""
        async with self._changed:
            self._num_waiting_alone += 1
            try:
                await self._changed.wait_for(lambda: self._num_inside == 0)
            finally:
                self._num_waiting_alone -= 1
            self._num_inside = -1
        try:
            yield
        finally:
            await self._leave(1)

    async def _leave(self, change: int) -> None:
        async with self._changed:
            self._num_inside += change
            self._changed.notify_all()
