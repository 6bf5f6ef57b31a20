"""Equal questions that wait together, asked as one with several answers: their prompt is worked on once.

Invariant: each caller gets an answer of its own draw, as if it had asked alone.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

WAIT_SECONDS = 0.002
"""How long a question waits for equals: collaborators of one configuration ask within a turn of the event loop."""

Q = TypeVar("Q", bound=Hashable)
A = TypeVar("A")


class Together(Generic[Q, A]):
    """Asks `answer(question, num)` for `num` callers at once; used in one event loop."""

    def __init__(self, answer: Callable[[Q, int], Awaitable[Sequence[A]]]) -> None:
        self._answer = answer
        self._waiting: dict[Q, list[asyncio.Future[A]]] = {}
        self._asking: set[asyncio.Task[None]] = set()  # held, for the loop itself holds tasks weakly

    async def ask(self, question: Q) -> A:
        """One answer. Raises what `answer` raises, to each of those who asked with it."""
        loop = asyncio.get_running_loop()
        mine: asyncio.Future[A] = loop.create_future()
        equals = self._waiting.setdefault(question, [])
        equals.append(mine)
        if len(equals) == 1:
            loop.call_later(WAIT_SECONDS, self._send, question)
        return await mine

    def _send(self, question: Q) -> None:
        equals = [future for future in self._waiting.pop(question) if not future.done()]
        if equals:
            task = asyncio.ensure_future(self._settle(question, equals))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _settle(self, question: Q, equals: Sequence[asyncio.Future[A]]) -> None:
        try:
            answers = await self._answer(question, len(equals))
        except Exception as error:
            for future in equals:
                if not future.done():
                    future.set_exception(error)
            return
        for future, answer in zip(equals, answers, strict=True):
            if not future.done():
                future.set_result(answer)
