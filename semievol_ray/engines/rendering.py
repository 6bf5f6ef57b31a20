"""Messages -> the token ids that engines are asked and trainers are taught; the one place where a template is applied.

Invariant: training ids = prompt_ids(...) + answer_ids(...), and prompt_ids(...) is what inference sends.
"""

from collections.abc import Sequence
from datetime import date
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, cast

from semievol_ray.core.prompts import Message
from semievol_ray.engines.base import Tokenizer
from semievol_ray.errors import ModelError


def load_tokenizer(path: str) -> Tokenizer:
    """The tokenizer of a local model folder. Raises ModelError when it has no chat template."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    if not tokenizer.chat_template:
        raise ModelError(f"{path}: the tokenizer has no chat template. Use an instruct model, or add a template to it.")
    return cast(Tokenizer, tokenizer)


def prompt_ids(tokenizer: Tokenizer, messages: Sequence[Message], template_date: str) -> list[int]:
    """Token ids up to where the assistant's answer begins, specials included once (no double BOS)."""
    text = _render(tokenizer, messages, template_date, add_generation_prompt=True)
    return tokenizer.encode(text, add_special_tokens=False)


def answer_ids(tokenizer: Tokenizer, answer: str, end_of_turn: int) -> list[int]:
    """Token ids of a rendered answer and the end-of-turn token; both are in the loss."""
    return [*tokenizer.encode(answer, add_special_tokens=False), end_of_turn]


def end_of_turn_id(tokenizer: Tokenizer, template_date: str) -> int:
    """The token with which the template closes an assistant turn; the tokenizer's eos where it closes with none."""
    sentinel = "SENTINEL"
    messages = [Message("user", "x"), Message("assistant", sentinel)]
    text = _render(tokenizer, messages, template_date, add_generation_prompt=False)
    tail = text[text.rindex(sentinel) + len(sentinel) :].lstrip(" \n")
    ids = tokenizer.encode(tail, add_special_tokens=False) if tail else []
    special = set(getattr(tokenizer, "all_special_ids", None) or []) | set(
        getattr(tokenizer, "added_tokens_decoder", {})
    )
    if ids and ids[0] in special:
        return ids[0]
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "the chat template closes an answer with no special token and the tokenizer names no eos token"
        )
    return tokenizer.eos_token_id


def token_spans(tokenizer: Tokenizer, token_ids: Sequence[int], text: str) -> list[tuple[int, int]]:
    """Character span [start, end) of each token in the text; a character of several tokens is in all their spans."""
    pieces = [tokenizer.decode([i], skip_special_tokens=True) for i in token_ids]
    if "".join(pieces) == text:
        ends = [0, *accumulate(len(piece) for piece in pieces)]
        return list(pairwise(ends))
    first, behind = _progress(tokenizer, token_ids, text)
    starts = [first, *(whole for whole, _ in behind)]
    return [(start, begun) for start, (_, begun) in zip(starts, behind, strict=False)]


def _progress(tokenizer: Tokenizer, token_ids: Sequence[int], text: str) -> tuple[int, list[tuple[int, int]]]:
    """Where the tokens begin in the text, and behind each token how far its characters are whole, and begun.

    Decoders of SentencePiece drop the blank that the first token begins with, which a text that was streamed behind its
    prompt has. Each token is decoded with the one before it, so that the time is linear.
    """

    def decoded(first: int, last: int) -> str:
        return tokenizer.decode(list(token_ids[first:last]), skip_special_tokens=True)

    begin = at = _where(decoded(0, len(token_ids)), text)
    first = last = 0
    known, found = "", list[tuple[int, int]]()
    for n in range(1, len(token_ids) + 1):
        piece = decoded(first, n)
        whole = at + len(piece.rstrip("\ufffd")) - len(known)
        found.append((min(whole, len(text)), min(whole + piece.endswith("\ufffd"), len(text))))
        if len(piece) > len(known) and not piece.endswith("\ufffd"):
            at, first, last = whole, last, n
            known = decoded(first, last)
    return begin, found


def _where(decoded: str, text: str) -> int:
    """How many of its first blanks a text has more than what its tokens decode to."""
    num_blanks = len(text) - len(text.lstrip(" "))
    either = ((at, min(len(decoded), len(text) - at)) for at in range(num_blanks + 1))
    return next((at for at, num in either if text[at : at + num] == decoded[:num]), 0)


def before_stop(text: str, stop: Sequence[str]) -> str:
    """A text up to the first of the stop strings in it."""
    return text[: min((at for at in map(text.find, stop) if at >= 0), default=len(text))]


def num_tokens_of(tokenizer: Tokenizer, token_ids: Sequence[int], text: str) -> int:
    """How many of the tokens it takes to write `text`, with which what they decode to begins."""
    _, behind = _progress(tokenizer, token_ids, text)
    needed = (n for n, (whole, _) in enumerate(behind, 1) if whole >= len(text))
    return next(needed, len(token_ids)) if text else 0


def _render(
    tokenizer: Tokenizer, messages: Sequence[Message], template_date: str, *, add_generation_prompt: bool
) -> str:
    """Apply the template; an instruction whose template has no system role goes in front of the first user turn."""
    try:
        text = _apply(tokenizer, messages, template_date, add_generation_prompt)
    except Exception as error:
        if not _is_template_error(error) or messages[0].role != "system":
            raise ModelError(f"the chat template cannot render this conversation: {error}") from error
        return _apply(tokenizer, _without_system(messages), template_date, add_generation_prompt)
    if messages[0].role == "system" and messages[0].content.strip() not in text:
        return _apply(tokenizer, _without_system(messages), template_date, add_generation_prompt)
    return text


def _apply(tokenizer: Tokenizer, messages: Sequence[Message], template_date: str, add_generation_prompt: bool) -> str:
    turns = [{"role": m.role, "content": m.content} for m in messages]
    text = tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=add_generation_prompt, **_clock(template_date)
    )
    return str(text)


@lru_cache(maxsize=1)
def _clock(template_date: str) -> dict[str, Any]:
    """What templates that read the clock use, held still: Llama's date_string and strftime_now."""
    fixed = date.fromisoformat(template_date)
    return {"date_string": fixed.strftime("%d %b %Y"), "strftime_now": fixed.strftime}


def _is_template_error(error: Exception) -> bool:
    return type(error).__module__.startswith("jinja2")


def _without_system(messages: Sequence[Message]) -> list[Message]:
    instruction, first, *rest = messages
    return [Message(first.role, f"{instruction.content}\n\n{first.content}"), *rest]
