"""What an OpenAI-compatible endpoint sends back: completions, complaints, and how long to wait.

Invariant: a reply of any shape becomes a completion or a FailedTryError, never another exception.
"""

import codecs
import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationError

from semievol_ray.engines.base import Completion

MOST_RETRY_AFTER_SECONDS = 3600.0
_Count = Annotated[int, Field(ge=0, lt=2**31)]


class FailedTryError(Exception):
    """One try without a completion; `retry_after` is how long the server asks to wait, in seconds."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class _Token(BaseModel):
    token: str
    logprob: Annotated[float, Field(allow_inf_nan=False)]
    bytes: list[int] | None = None


class _Logprobs(BaseModel):
    content: list[_Token] | None = None


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(BaseModel):
    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None


class _Reply(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: _Usage | None = None


def completion(content: bytes, secret: str | None) -> Completion:
    """The first choice of a server's reply. Raises FailedTryError for what is no chat completion."""
    try:
        reply = _Reply.model_validate_json(content)
    except ValidationError:
        said = complaint(content.decode(errors="replace"), secret)
        raise FailedTryError(f"an answer that is no chat completion ({said})") from None
    choice, usage = reply.choices[0], reply.usage or _Usage()
    text = choice.message.content or ""
    finish: Literal["stop", "length"] = "stop" if choice.finish_reason in ("stop", None) else "length"
    tokens = (choice.logprobs.content if choice.logprobs else None) or []
    texts = _texts(tokens)
    if finish == "stop" and texts and (not texts[-1] or not text.endswith(texts[-1])):
        tokens, texts = tokens[:-1], texts[:-1]  # some servers report the end-of-turn token, which is no part of H
    return Completion(
        text,
        (),
        tuple(token.logprob for token in tokens),
        finish,
        token_texts=tuple(texts) if tokens and "".join(texts) == text else None,
        num_prompt_tokens=usage.prompt_tokens,
        num_tokens=len(tokens) if usage.completion_tokens is None else usage.completion_tokens,
    )


def _texts(tokens: Sequence[_Token]) -> list[str]:
    """Each token's characters; those of a character in several tokens go with the last of them."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return [t.token if t.bytes is None else decoder.decode(bytes(b & 255 for b in t.bytes)) for t in tokens]


def complaint(text: str, secret: str | None) -> str:
    """What a server says of a failure, as one line of at most 200 characters that does not hold the secret."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = text
    if isinstance(found, dict):
        inner = found.get("error", found)
        found = inner.get("message", inner.get("detail", inner)) if isinstance(inner, dict) else inner
    whole = str(found).replace(secret, "***") if secret else str(found)
    line = " ".join(whole.encode(errors="replace").decode().split())
    return line if len(line) <= 200 else line[:197] + "..."


def seconds_to_wait(retry_after: str | None) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or a date; None for neither."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return min(max(seconds, 0.0), MOST_RETRY_AFTER_SECONDS) if math.isfinite(seconds) else None
