"""Questions about one prompt that wait together, asked as one with an answer for each: it is worked on once.

Invariant: each caller gets an answer of its own draw, as if it had asked alone.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

WAIT_SECONDS = 0.002
"""How long a question waits for equals: collaborators of one configuration ask within a turn of the event loop."""

Q = TypeVar("Q", bound=Hashable)
T = TypeVar("T")
A = TypeVar("A")


class Together(Generic[Q, T, A]):
    """Asks `answer(question, items)` for those who ask at once, each with an item; used in one event loop."""

    def __init__(self, answer: Callable[[Q, Sequence[T]], Awaitable[Sequence[A]]]) -> None:
        self._answer = answer
        self._waiting: dict[Q, list[tuple[T, asyncio.Future[A]]]] = {}
        self._asking: set[asyncio.Task[None]] = set()  # held, for the loop itself holds tasks weakly

    async def ask(self, question: Q, item: T) -> A:
        """One answer. Raises what `answer` raises, to each of those who asked with it."""
        loop = asyncio.get_running_loop()
        mine: asyncio.Future[A] = loop.create_future()
        equals = self._waiting.setdefault(question, [])
        equals.append((item, mine))
        if len(equals) == 1:
            loop.call_later(WAIT_SECONDS, self._send, question)
        return await mine

    def _send(self, question: Q) -> None:
        equals = [(item, future) for item, future in self._waiting.pop(question) if not future.done()]
        if equals:
            task = asyncio.ensure_future(self._settle(question, equals))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _settle(self, question: Q, equals: Sequence[tuple[T, asyncio.Future[A]]]) -> None:
        try:
            answers = await self._answer(question, [item for item, _ in equals])
        except Exception as error:
            for _, future in equals:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), answer in zip(equals, answers, strict=True):
            if not future.done():
                future.set_result(answer)
