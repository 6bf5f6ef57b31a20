"""The gate reads no further than a body may be long, and asks for the key before it reads at all."""

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

import pytest
from fastapi import FastAPI

from semievol_ray.endpoint.gate import Gate, key_digest

MOST_BYTES, PIECE = 100, b"x" * 30


class Caller:
    """A client that sends pieces for as long as it is read, and what it was answered."""

    def __init__(self, num_pieces: int) -> None:
        self.num_pieces, self.num_read, self.told = num_pieces, 0, list[MutableMapping[str, Any]]()

    async def receive(self) -> MutableMapping[str, Any]:
        self.num_read += 1
        return {"type": "http.request", "body": PIECE, "more_body": self.num_read < self.num_pieces}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        self.told.append(message)

    @property
    def status(self) -> int:
        return int(self.told[0]["status"])


async def reading(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001
    """An application that reads the whole body and tells its length."""
    length, more = 0, True
    while more:
        message = await receive()
        length, more = length + len(message["body"]), message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(length).encode()})


def fastapi_app() -> Any:
    """An application whose framework reads the body, and answers 400 to whatever goes wrong meanwhile."""
    app = FastAPI()

    @app.post("/v1/models")
    async def models(body: dict[str, Any]) -> int:
        return len(body)

    return app


def ask(
    caller: Caller, key: str | None = None, given: str = "", path: str = "/v1/models", length: int = 0,
    app: Any = reading,
) -> Caller:  # fmt: skip
    headers = [(b"authorization", given.encode())] if given else []
    headers += [(b"content-length", str(length).encode())] if length else []
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
    gate = Gate(app, key and key_digest(key), MOST_BYTES)
    asyncio.run(gate(scope, caller.receive, caller.send))
    return caller


def test_body_within_the_limit_comes_through_whole() -> None:
    caller = ask(Caller(3))
    assert (caller.status, caller.told[1]["body"]) == (200, b"90")


def test_body_without_an_end_is_refused_where_it_becomes_too_large() -> None:
    caller = ask(Caller(10**9))
    assert (caller.status, caller.num_read) == (413, 4)
    assert json.loads(caller.told[1]["body"])["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("app", [reading, fastapi_app()])
def test_body_that_says_it_is_too_large_is_refused_before_anything_is_read(app: Any) -> None:
    caller = ask(Caller(10), length=300, app=app)
    assert (caller.status, caller.num_read, len(caller.told)) == (413, 0, 2)
    assert json.loads(caller.told[1]["body"])["error"]["message"].startswith("the body is larger than 100 bytes")


def test_body_that_becomes_too_large_is_told_so_whatever_the_application_makes_of_it() -> None:
    caller = ask(Caller(10**9), app=fastapi_app())
    assert (caller.status, caller.num_read, len(caller.told)) == (413, 4, 2)
    assert json.loads(caller.told[1]["body"])["error"]["message"].startswith("the body is larger than 100 bytes")


def test_reply_that_began_before_the_body_became_too_large_stays_the_applications() -> None:
    async def early(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await reading(scope, receive, send)

    caller = ask(Caller(10**9), app=early)
    assert [message.get("status") for message in caller.told] == [200]


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ("Bearer right", 200),
        ("bearer right", 200),
        ("Bearer wrong", 401),
        ("right", 401),
        ("Basic right", 401),
        ("", 401),
    ],
)
def test_key_is_asked_for_before_anything_is_read(given: str, status: int) -> None:
    caller = ask(Caller(1), "right", given)
    assert caller.status == status
    assert (caller.num_read > 0) is (status == 200)


def test_health_is_told_without_a_key() -> None:
    assert ask(Caller(1), "right", path="/health").status == 200
