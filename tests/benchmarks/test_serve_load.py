"""The load of the serving benchmark counts what its callers see: answers, retries, broken streams, giving up."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn

from benchmarks.serve_load import Load, sent

LOAD = Load(num_requests=20, concurrency=5, model="m", questions=("an oak",))


class Moody:
    """A server that refuses its first requests with 500 and breaks off its first streams."""

    def __init__(self, num_refused: int = 0, num_broken: int = 0) -> None:
        self.num_refused, self.num_broken = num_refused, num_broken

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while (message := await receive()).get("more_body") or message.get("body"):
            body += message["body"]
            if not message.get("more_body"):
                break
        is_streamed = json.loads(body)["stream"]
        if self.num_refused:
            self.num_refused -= 1
            await self._reply(send, 500, b"{}", "application/json")
        elif not is_streamed:
            await self._reply(send, 200, _chunk("stop", "message"), "application/json")
        else:
            ends, self.num_broken = self.num_broken == 0, max(0, self.num_broken - 1)
            events = [_chunk(None, "delta"), *([_chunk("stop", "delta")] if ends else [])]
            told = b"".join(b"data: " + event + b"\n\n" for event in events) + (b"data: [DONE]\n\n" if ends else b"")
            await self._reply(send, 200, told, "text/event-stream")

    async def _reply(self, send: Any, status: int, body: bytes, kind: str) -> None:
        headers = [(b"content-type", kind.encode()), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _chunk(finish_reason: str | None, kind: str) -> bytes:
    choice = {"index": 0, kind: {"role": "assistant", "content": "x"}, "finish_reason": finish_reason}
    return json.dumps({"id": "i", "object": "o", "created": 0, "model": "m", "choices": [choice]}).encode()


@contextmanager
def listening(app: Moody) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", lifespan="off"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not server.started and time.monotonic() < until:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_every_request_is_answered_once_and_half_of_them_streamed() -> None:
    with listening(Moody()) as url:
        done, seconds = sent(url, "k", LOAD)
    assert len(done) == LOAD.num_requests
    assert all(request.is_answered and 0 < request.seconds <= seconds for request in done)
    assert sum(request.is_streamed for request in done) == LOAD.num_requests // 2
    assert sum(request.num_retries + request.num_broken for request in done) == 0


def test_refusals_are_retries_and_broken_streams_are_counted_apart() -> None:
    with listening(Moody(num_refused=2, num_broken=3)) as url:
        done, _ = sent(url, "k", LOAD)
    assert all(request.is_answered for request in done)
    assert sum(request.num_retries for request in done) == 2
    assert sum(request.num_broken for request in done) == 3
    assert {request.is_streamed for request in done if request.num_broken} == {True}


def test_request_that_is_refused_for_ever_is_given_up_with_its_error() -> None:
    struck: list[bool] = []
    with listening(Moody(num_refused=10**6)) as url:
        done, _ = sent(url, "k", Load(2, 2, "m", ("an oak",)), lambda: struck.append(True))
    assert [(request.is_answered, request.error) for request in done] == [(False, "InternalServerError")] * 2
    assert struck == [True]
