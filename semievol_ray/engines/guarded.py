"""The seam around every engine: each answer is a beat, and a foreign error that ends an engine becomes EngineDiedError.

Invariant: what an engine raises about one request alone passes as it is.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from semievol_ray.engines.base import Completion, Generator, Request, RequestFailedError, ScoreRequest, Tokenizer
from semievol_ray.engines.faults import translated

T = TypeVar("T")


class GuardedGenerator:
    """A `Generator` that answers by another one."""

    def __init__(self, engine: Generator, beat: Callable[[], None]) -> None:
        self._engine, self._beat = engine, beat
        self.max_num_seqs = engine.max_num_seqs

    @property
    def tokenizer(self) -> Tokenizer | None:
        return self._engine.tokenizer

    async def generate(self, request: Request) -> Completion:
        return await self._guarded(self._engine.generate(request))

    async def score(self, request: ScoreRequest) -> tuple[float, ...]:
        return await self._guarded(self._engine.score(request))

    def close(self) -> None:
        self._engine.close()

    async def _guarded(self, answer: Awaitable[T]) -> T:
        try:
            return await answer
        except RequestFailedError:  # an endpoint may tell in it of the memory of its own device
            raise
        except Exception as error:
            raise translated(error) from error.__cause__
        finally:
            self._beat()
