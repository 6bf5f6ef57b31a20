"""Load on a served run: chat requests by the real `openai` client, half of them streamed, and how each ended.

Invariant: a request is what its caller sees: begun when it is first sent, ended by a whole answer or by giving up;
retries inside the client belong to it, and so does asking again after a stream broke.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ANSWER_TOKENS = 32
MOST_STREAMS = 5
"""How often a caller asks again for a stream that broke."""


@dataclass(frozen=True)
class Load:
    """What is sent: requests in all, at once, and the model and questions of them."""

    num_requests: int
    concurrency: int
    model: str
    questions: tuple[str, ...]


@dataclass
class Request:
    """One request as its caller saw it."""

    seconds: float = 0.0
    is_streamed: bool = False
    is_answered: bool = False
    num_retries: int = 0
    num_broken: int = 0
    error: str = ""


def sent(url: str, key: str, load: Load, strike: Callable[[], None] | None = None) -> tuple[list[Request], float]:
    """Every request, and the seconds of all; `strike` is called once, when half of them are answered."""
    began = time.monotonic()
    done = asyncio.run(_all(url, key, load, strike))
    return done, time.monotonic() - began


async def _all(url: str, key: str, load: Load, strike: Callable[[], None] | None) -> list[Request]:
    import openai

    client = openai.AsyncOpenAI(base_url=url, api_key=key, timeout=120)
    seats, done = asyncio.Semaphore(load.concurrency), list[Request]()

    async def one(number: int) -> None:
        async with seats:
            request = await _one(client, load, number)
        done.append(request)
        if strike is not None and len(done) == load.num_requests // 2:
            await asyncio.to_thread(strike)

    await asyncio.gather(*(one(number) for number in range(load.num_requests)))
    await client.close()
    return done


async def _one(client: Any, load: Load, number: int) -> Request:
    import httpx
    import openai

    request, began = Request(is_streamed=number % 2 == 1), time.monotonic()
    question = {"role": "user", "content": load.questions[number % len(load.questions)]}
    asked = {"model": load.model, "messages": [question], "max_tokens": ANSWER_TOKENS, "temperature": 0}
    while not request.is_answered and request.num_broken < MOST_STREAMS:
        raw = None
        try:
            raw = await client.chat.completions.with_raw_response.create(**asked, stream=request.is_streamed)
            request.num_retries += raw.retries_taken
            request.is_answered = await _is_whole(raw.parse(), is_streamed=request.is_streamed)
            request.num_broken += not request.is_answered
        except (openai.APIError, httpx.HTTPError) as error:
            request.error = type(error).__name__
            if raw is None or not request.is_streamed:  # the client gave up after its own retries
                break
            request.num_broken += 1
    request.seconds = time.monotonic() - began
    return request


async def _is_whole(reply: Any, *, is_streamed: bool) -> bool:
    """Whether an answer came to its end."""
    if not is_streamed:
        return bool(reply.choices[0].finish_reason)
    ended = False
    async for chunk in reply:
        ended = ended or bool(chunk.choices and chunk.choices[0].finish_reason)
    return ended
