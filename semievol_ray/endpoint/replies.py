"""Requests read and replies written as OpenAI's API has them, errors too.

Invariant: whatever was sent, the reply to it is JSON with a status; a refusal says what was wrong and what to do.
"""

import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

KINDS = {401: "authentication_error", 404: "not_found_error", 413: "invalid_request_error", 503: "server_error"}


class RefusedError(Exception):
    """A request that is answered with an error: its status and, where clients look at it, a code."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def refusal(status: int, message: str, code: str | None = None) -> JSONResponse:
    """An error as OpenAI's clients read it."""
    kind = KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    told = {"message": message, "type": kind, "param": None, "code": code}
    return JSONResponse({"error": told}, status_code=status)


async def json_object(request: Request) -> Mapping[str, Any]:
    """The body of a request. Raises RefusedError where it is no JSON object."""
    try:
        found = json.loads(await request.body())
    except ValueError as error:
        raise RefusedError(400, f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise RefusedError(400, f"the body has to be a JSON object, not {type(found).__name__}")
    return found
