"""The gate before everything that is served: who may ask, and how much may be sent.

Invariant: the key itself is never here, only its digest, so that no log, dump or object store can show it.
"""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.responses import Response

from semievol_ray.endpoint.replies import RefusedError, refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
MOST_BODY_BYTES = 8 << 20
OPEN_PATHS = frozenset({"/health", "/ping"})
"""What a load balancer asks without a key."""


def key_digest(key: str) -> str:
    """What of a key travels to the engines."""
    return hashlib.sha256(key.encode()).hexdigest()


class Gate:
    """An application that is asked only with the right key, where there is one, and with bodies of a bearable size."""

    def __init__(self, app: App, digest: str | None, most_bytes: int = MOST_BODY_BYTES) -> None:
        self._app, self._digest, self._most_bytes = app, digest, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if not self._may_ask(scope):
            told = "the API key is wrong or missing: send it as `Authorization: Bearer KEY`"
            await refusal(401, told, "invalid_api_key")(scope, receive, send)
            return
        if _length(scope) > self._most_bytes:
            await self._too_large()(scope, receive, send)
            return
        await self._ask_measured(scope, receive, send)

    async def _ask_measured(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ask the application until the body is too large: then 413 goes out in place of what it makes of that."""
        seen, is_begun = 0, False

        async def measured() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._most_bytes:
                raise RefusedError(413, "the body is too large")
            return message

        async def sending(message: Message) -> None:
            nonlocal is_begun
            if is_begun or seen <= self._most_bytes:
                is_begun = True
                await send(message)

        try:
            await self._app(scope, measured, sending)
        except RefusedError:  # raised where the application waits for the rest of a body
            pass
        finally:
            if not is_begun and seen > self._most_bytes:
                await self._too_large()(scope, receive, send)

    def _too_large(self) -> Response:
        return refusal(413, f"the body is larger than {self._most_bytes} bytes: send less at a time")

    def _may_ask(self, scope: Scope) -> bool:
        if self._digest is None or scope["path"] in OPEN_PATHS:
            return True
        kind, _, given = _header(scope, b"authorization").partition(" ")
        is_bearer = kind.lower() == "bearer"
        return hmac.compare_digest(key_digest(given.strip() if is_bearer else ""), self._digest) and is_bearer


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name), "")


def _length(scope: Scope) -> int:
    """The length that a body is said to have; 0 where it is not told."""
    told = _header(scope, b"content-length")
    return int(told) if told.isdigit() else 0
