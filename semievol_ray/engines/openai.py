"""A chat model behind an OpenAI-compatible endpoint that the user already runs or pays, as a `Generator`.

Invariant: the key is read from the environment in the process that asks, and stands in no message, log or file.
"""

import asyncio
import os
import random
import time
from collections.abc import Callable
from typing import Any

from semievol_ray.engines.base import Completion, EngineSpec, Request, RequestFailedError, ScoreRequest
from semievol_ray.engines.openai_reply import FailedTryError, complaint, completion, seconds_to_wait
from semievol_ray.errors import ConfigError, MissingExtraError, UserError
from semievol_ray.methodconfig import EndpointConfig

MOST_DELAY_SECONDS = 60.0
BEAT_SECONDS = 1.0
_AGAIN = frozenset({408, 409, 425, 429})
_ROW = frozenset({400, 413, 422})
"""Statuses about one request, a prompt that is too long say; other refusals would meet every request."""


class OpenAIGenerator:
    """Asks an endpoint, `max_concurrency` requests at once, no faster than `requests_per_minute`; retries included.

    Whatever still fails after `max_retries` is that request's RequestFailedError. A refusal that every request would
    meet (401, 403, 404 ...) is a ConfigError. `first_delay_seconds` doubles with each retry of a request. `beat` is
    called while it waits on purpose, which may be an hour where a server asks for that.
    """

    tokenizer = None

    def __init__(
        self, spec: EngineSpec, beat: Callable[[], None] = lambda: None, first_delay_seconds: float = 1.0
    ) -> None:
        try:
            import httpx
        except ImportError as error:
            raise MissingExtraError("endpoints need httpx: pip install 'semievol-ray[cpu]'") from error
        assert spec.endpoint is not None
        self._beat = beat
        self._endpoint, self._model, self._first_delay = spec.endpoint, spec.model, first_delay_seconds
        self.max_num_seqs = spec.endpoint.max_concurrency
        self._slots, self._pace = asyncio.Semaphore(self.max_num_seqs), _Pace(spec.endpoint.requests_per_minute)
        self._url = _chat_url(spec.endpoint.url)
        self._shown_url, self._key = spec.endpoint.address, _key(spec.endpoint)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx.Limits(max_connections=self.max_num_seqs)
        self._client = httpx.AsyncClient(headers=headers, timeout=None, limits=limits)
        self._logprobs, self._limit = True, "max_tokens"
        self._closing: asyncio.Task[None] | None = None

    async def generate(self, request: Request) -> Completion:
        async with self._slots:
            num_failed = 0
            while True:
                try:
                    return await self._once(request)
                except FailedTryError as failure:
                    num_failed += 1
                    if num_failed > self._endpoint.max_retries:
                        reason = f"{self._shown_url}: {failure}, the last of {num_failed} tries"
                        raise RequestFailedError(reason) from None
                    await self._wait(self._delay(num_failed, failure.retry_after))

    async def score(self, request: ScoreRequest) -> tuple[float, ...]:  # noqa: ARG002
        raise UserError(f"{self._shown_url}: an endpoint scores no answers; only the student does, by its own engine")

    async def _once(self, request: Request) -> Completion:
        import httpx

        body = self._body(request)
        await self._wait(self._pace.turn())
        try:
            async with asyncio.timeout(self._endpoint.timeout_seconds):
                response = await self._client.post(self._url, json=body)
        except TimeoutError:
            raise FailedTryError(f"no answer within {self._endpoint.timeout_seconds:g} s") from None
        except httpx.HTTPError as error:
            raise FailedTryError(complaint(f"{type(error).__name__} {error}", self._key)) from None
        if response.is_success:
            return completion(response.content, self._key)
        told = complaint(response.text, self._key)
        if response.status_code in _ROW and self._learns(body, told):
            return await self._once(request)
        raise self._refusal(response.status_code, told, response.headers.get("retry-after"))

    def _body(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        body = {
            "model": self._model,
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
            "temperature": sampling.temperature,
            self._limit: sampling.max_tokens,
        }
        body |= {"logprobs": True} if self._logprobs else {}
        body |= {"top_p": sampling.top_p} if sampling.top_p < 1 else {}
        body |= {"stop": list(sampling.stop)} if sampling.stop else {}
        return body | ({"top_k": sampling.top_k} if sampling.top_k else {})

    def _learns(self, body: dict[str, Any], told: str) -> bool:
        """Whether a refusal names something that this server wants left out or named otherwise; so it is from now."""
        if "logprobs" in body and "logprob" in told.lower():
            self._logprobs = False
        elif "max_tokens" in body and "max_completion_tokens" in told:
            self._limit = "max_completion_tokens"
        else:
            return False
        return True

    def _refusal(self, status: int, told: str, retry_after: str | None) -> Exception:
        """What a refusal is: one failed try, the end of the row, or nothing that asking again could mend."""
        answered = f"status {status}" + (f" ({told})" if told else "")
        if status in _AGAIN or status >= 500:
            wait = seconds_to_wait(retry_after)
            self._pace.hold(wait or 0.0)
            return FailedTryError(answered, wait)
        if status in _ROW:
            return RequestFailedError(f"{self._shown_url} refused the request with {answered}")
        variable = self._endpoint.api_key_env
        key = f"the key in {variable}" if variable else "api_key_env, which is not set, so that no key was sent"
        return ConfigError(
            f"{self._shown_url} answered with {answered} for model {self._model!r}. Check the collaborator's "
            f"endpoint.url (up to and with /v1), model, and {key}."
        )

    def _delay(self, num_failed: int, retry_after: float | None) -> float:
        """Seconds until the next try: what the server asks for, else twice as many as last time; neither exactly."""
        grown = min(self._first_delay * 2.0 ** (num_failed - 1), MOST_DELAY_SECONDS)
        if retry_after is None:
            return grown * random.uniform(0.5, 1)
        return retry_after + random.uniform(0, self._first_delay)  # not all at the same moment

    async def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._beat()
            await asyncio.sleep(min(left, BEAT_SECONDS))

    def close(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # the connections ended with their loop
        self._closing = loop.create_task(self._client.aclose())


class _Pace:
    """When the next request may leave: evenly spaced, so that a minute's requests are no burst."""

    def __init__(self, per_minute: float | None) -> None:
        self._gap_seconds = 60 / per_minute if per_minute else 0.0
        self._next = 0.0

    def turn(self) -> float:
        """Seconds until the request that asks now may leave."""
        now = time.monotonic()
        at = max(now, self._next)
        self._next = at + self._gap_seconds
        return at - now

    def hold(self, seconds: float) -> None:
        """Let no request leave for so long."""
        self._next = max(self._next, time.monotonic() + seconds)


def _key(endpoint: EndpointConfig) -> str | None:
    """The key in the environment variable that the endpoint names. Raises ConfigError without ever showing it."""
    if endpoint.api_key_env is None:
        return None
    key, url = os.environ.get(endpoint.api_key_env, "").strip(), endpoint.address
    if not key:
        raise ConfigError(f"{url}: the environment variable {endpoint.api_key_env}, which holds its key, is not set.")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError(f"{url}: what {endpoint.api_key_env} holds is no key: there are characters no key has.")
    return key


def _chat_url(url: str) -> Any:
    """The httpx.URL of chat completions below an endpoint's URL, a query kept."""
    import httpx

    try:
        base = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"endpoint.url is no URL ({error}): write it up to and with /v1") from error
    return base.copy_with(path=base.path.rstrip("/") + "/chat/completions")
