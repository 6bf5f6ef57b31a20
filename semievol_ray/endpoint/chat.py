"""OpenAI's chat completions over any engine of the seam, for those that have no server of their own.

Invariant: a prompt is rendered as everywhere else, so that a served model answers as the run's own steps do.
"""

import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse

from semievol_ray.core.prompts import Message
from semievol_ray.endpoint.models import Serving
from semievol_ray.endpoint.replies import RefusedError, json_object
from semievol_ray.engines.base import Completion, Generator, Request, RequestFailedError, Sampling
from semievol_ray.engines.rendering import prompt_ids
from semievol_ray.errors import ModelError

PIECE_CHARACTERS = 16
_ROLES = ("system", "developer", "user", "assistant")


@dataclass(frozen=True)
class Chat:
    """A request that was read and found good: what the engine is asked, and how the reply is to look."""

    id: str
    model: str
    request: Request
    is_streamed: bool
    is_counted: bool


async def models(serving: Serving) -> Response:
    """GET /v1/models."""
    listed = [
        {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "semievol",
            "root": serving.spec.model,
            "parent": None,
        }
        for name in serving.models
    ]
    return JSONResponse({"object": "list", "data": listed})


async def chat_completions(serving: Serving, engine: Generator, http: HttpRequest) -> Response:
    """POST /v1/chat/completions, whole or streamed. Raises RefusedError."""
    chat = read_chat(serving, engine, await json_object(http))
    if chat.is_streamed:
        return StreamingResponse(_events(chat, engine), media_type="text/event-stream")
    return JSONResponse(_whole(chat, await _completed(chat, engine)))


def read_chat(serving: Serving, engine: Generator, body: Mapping[str, Any]) -> Chat:
    """What a body asks for. Raises RefusedError for an unknown model, a wrong value, or a prompt that is too long."""
    name = str(body.get("model"))
    if name not in serving.models:
        known = ", ".join(serving.models)
        raise RefusedError(404, f"there is no model {name!r}; served are {known}", "model_not_found")
    if body.get("n", 1) != 1:
        raise RefusedError(400, "n has to be 1: ask again for another answer")
    tokenizer = engine.tokenizer
    assert tokenizer is not None, "an endpoint is not served again"
    try:
        ids = prompt_ids(tokenizer, _messages(body.get("messages")), serving.template_date)
    except ModelError as error:
        raise RefusedError(400, str(error)) from None
    longest = serving.spec.max_model_len
    if len(ids) >= longest:
        raise RefusedError(
            400,
            f"the messages take {len(ids)} tokens and this model's context holds {longest}: send less",
            "context_length_exceeded",
        )
    sampling = _sampling(body, longest - len(ids))
    options = body.get("stream_options") or {}
    return Chat(
        f"chatcmpl-{uuid.uuid4().hex}",
        name,
        Request(tuple(ids), sampling, serving.models[name]),
        bool(body.get("stream")),
        bool(options.get("include_usage")) if isinstance(options, dict) else False,
    )


def _messages(given: Any) -> list[Message]:
    if not isinstance(given, list) or not given:
        raise RefusedError(400, "messages has to be a list of at least one message")
    found = []
    for message in given:
        role = message.get("role") if isinstance(message, dict) else None
        if role not in _ROLES:
            raise RefusedError(400, f"the role of a message is one of {', '.join(_ROLES)}, not {role!r}")
        found.append(Message("system" if role == "developer" else str(role), _text(message.get("content"))))
    return found


def _text(content: Any) -> str:
    """A message's text, of one string or of parts of type text."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        if len(parts) == len(content) and all(isinstance(part, str) for part in parts):
            return "".join(map(str, parts))
    if not isinstance(content, str):
        raise RefusedError(400, "the content of a message has to be text; images and tools are not served")
    return content


def _sampling(body: Mapping[str, Any], room: int) -> Sampling:
    """How the answer is drawn; null stands for OpenAI's own defaults."""
    asked = body.get("max_completion_tokens") or body.get("max_tokens") or room
    if not isinstance(asked, int) or isinstance(asked, bool) or asked < 1:
        raise RefusedError(400, f"max_tokens has to be a whole number of at least 1, not {asked!r}")
    top_p = _number(body, "top_p", 1.0, 1e-6, 1)
    return Sampling(_number(body, "temperature", 1.0, 0, 2), min(asked, room), top_p)


def _number(body: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = default if body.get(name) is None else body[name]
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise RefusedError(400, f"{name} has to be a number from {low:g} to {high:g}, not {value!r}")
    return float(value)


async def _completed(chat: Chat, engine: Generator) -> Completion:
    try:
        return await engine.generate(chat.request)
    except RequestFailedError as error:
        raise RefusedError(400, str(error)) from None


def _whole(chat: Chat, done: Completion) -> dict[str, Any]:
    message = {"role": "assistant", "content": done.text}
    choice = {"index": 0, "message": message, "finish_reason": done.finish_reason, "logprobs": None}
    return _envelope(chat, "chat.completion", [choice]) | {"usage": _usage(chat, done)}


async def _events(chat: Chat, engine: Generator) -> AsyncIterator[bytes]:
    """Server-sent events: the role at once, the text in pieces when it is there, how it ended, [DONE]."""
    yield _event(_delta(chat, {"role": "assistant", "content": ""}))
    try:
        done = await _completed(chat, engine)
    except RefusedError as error:
        yield _event({"error": {"message": str(error), "type": "invalid_request_error", "code": error.status}})
        return
    for at in range(0, len(done.text), PIECE_CHARACTERS):
        yield _event(_delta(chat, {"content": done.text[at : at + PIECE_CHARACTERS]}))
    yield _event(_delta(chat, {}, done.finish_reason))
    if chat.is_counted:
        yield _event(_envelope(chat, "chat.completion.chunk", []) | {"usage": _usage(chat, done)})
    yield b"data: [DONE]\n\n"


def _delta(chat: Chat, delta: Mapping[str, str], finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": dict(delta), "finish_reason": finish_reason, "logprobs": None}
    return _envelope(chat, "chat.completion.chunk", [choice])


def _envelope(chat: Chat, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": chat.id, "object": kind, "created": int(time.time()), "model": chat.model, "choices": choices}


def _usage(chat: Chat, done: Completion) -> dict[str, int]:
    prompt, answer = len(chat.request.prompt_ids), len(done.token_ids)
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def _event(told: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(told, ensure_ascii=False)}\n\n".encode()
