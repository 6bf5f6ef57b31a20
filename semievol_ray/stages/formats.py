"""Layouts of other tools' files: chat messages, prompt and completion, alpaca, and DROP; each becomes question, answer.

Invariant: a layout is known by its columns' names, and only where the file has none of the name that the task reads.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from semievol_ray.stages.files import Record
from semievol_ray.task import Columns, Task

Pair = tuple[Any, Any]
"""(question, answer), the answer None where the record has none."""


@dataclass(frozen=True)
class Layout:
    """One way to lay out a row. `pair` raises ValueError for a record that does not fit; `note` says what is read.

    `answer` is the column that the answer comes from; `whole_replies` where it may be more than the bare answer.
    """

    name: str
    needs: frozenset[str]
    answer: str
    note: str
    pair: Callable[[Record], Pair]
    whole_replies: bool = True


def layout_of(record: Record, task: Task) -> Layout | None:
    """The layout of a file by its first record; None for one with the task's own columns, or with names of none."""
    plain = Columns()
    if (task.columns.question, task.columns.answer) != (plain.question, plain.answer):
        return None  # a person named them
    if plain.question in record and not (_DROP.needs <= set(record) and plain.answer not in record):
        return None
    return next((layout for layout in _LAYOUTS if layout.needs <= set(record)), None)


def laid_out(record: Record, layout: Layout) -> Record:
    """The record with the columns `question` and `answer`; ValueError says what does not fit."""
    question, answer = layout.pair(record)
    return {**record, "question": question, "answer": answer}


def _chat(record: Record) -> Pair:
    """The last user turn is asked, with the turns before it; the assistant's behind it is the answer."""
    turns = [(role, text) for role, text in _turns(record["messages"]) if role != "system"]
    asked = next((i for i in reversed(range(len(turns))) if turns[i][0] == "user"), None)
    if asked is None:
        raise ValueError("no turn of the user in 'messages'")
    after = turns[asked + 1 :]
    if len(after) > 1:
        raise ValueError(f"{len(after)} turns follow the last of the user in 'messages'; one answer was expected")
    before = [f"{role.capitalize()}: {text}" for role, text in turns[:asked]]
    question = "\n\n".join([*before, f"User: {turns[asked][1]}"]) if before else turns[asked][1]
    return question, after[0][1] if after else None


def _turns(messages: Any) -> Iterable[tuple[str, str]]:
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        raise ValueError('\'messages\' is not a list of turns such as {"role": "user", "content": "..."}')
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if role not in ("system", "developer", "user", "assistant"):
            raise ValueError(f"a turn with role {role!r} in 'messages'; user, assistant and system are read")
        yield "system" if role == "developer" else role, _text(content)


def _text(content: Any) -> str:
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text")) for part in content)
    if not isinstance(content, str):
        raise ValueError("a turn whose content is no text in 'messages'")
    return content


def _prompt(record: Record) -> Pair:
    prompt, completion = record["prompt"], record.get("completion", record.get("answer"))
    if isinstance(prompt, list):  # both as turns of a chat
        return _chat({"messages": [*prompt, *(completion or [])]})
    return prompt, completion


def _alpaca(record: Record) -> Pair:
    given = [record["instruction"], record.get("input")]
    return "\n\n".join(text for text in given if isinstance(text, str) and text.strip()), record.get(
        "output", record.get("answer")
    )


def _drop(record: Record) -> Pair:
    answers = record["answers_spans"]
    spans = answers.get("spans") if isinstance(answers, Mapping) else answers
    return f"{record['passage']}\n\n{record['question']}", spans or None


_DROP = Layout(
    "drop",
    frozenset(("passage", "question", "answers_spans")),
    "answers_spans",
    "DROP's columns: the passage stands before its question, any of answers_spans is right",
    _drop,
    whole_replies=False,
)
_LAYOUTS = (
    _DROP,
    Layout(
        "messages",
        frozenset(("messages",)),
        "messages",
        "chat messages: the last user turn is the question, with earlier turns before it, the assistant turn behind it "
        "the answer; system turns are left out, for the task's instruction stands in their place",
        _chat,
    ),
    Layout(
        "prompt/completion",
        frozenset(("prompt",)),
        "completion",
        "prompt is the question, completion the answer",
        _prompt,
    ),
    Layout(
        "alpaca",
        frozenset(("instruction",)),
        "output",
        "alpaca: instruction and input together are the question, output is the answer",
        _alpaca,
    ),
)
