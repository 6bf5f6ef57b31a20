"""The messages a model is asked with; turning them into token ids is the engine's part.

Invariant: a prompt is a function of its arguments alone, and none of them is the gold answer of the row that is asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase


@dataclass(frozen=True)
class Message:
    """One turn of a chat; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class Demonstration:
    """A solved question shown before the one that is asked; both texts are already rendered by the task."""

    question: str
    answer: str


def question_messages(instruction: str, question: str, demonstrations: Sequence[Demonstration]) -> tuple[Message, ...]:
    """The instruction, each demonstration as a user and an assistant turn in the order given, then the question."""
    turns: list[Message] = [Message("system", instruction)] if instruction else []
    for shown in demonstrations:
        turns += [Message("user", shown.question), Message("assistant", shown.answer)]
    return (*turns, Message("user", question))


def justification_messages(instruction: str, question: str, candidates: Sequence[str]) -> tuple[Message, ...]:
    """The question again, with the drafts' answers (canonical, already shuffled) told beside the instruction (eq. 5).

    The user's turn stays as M_warm was taught it, for small models lose accuracy where it changes. Without candidates
    it is the plain question.
    """
    if not candidates:
        return question_messages(instruction, question, ())
    return question_messages(f"{instruction} Others answered: {', '.join(candidates)}.".strip(), question, ())


def side_by_side(shown: Sequence[Sequence[Demonstration]]) -> list[int]:
    """Row numbers in an order in which rows whose prompts begin alike, with the same demonstrations, follow each other.

    `shown` are each row's demonstrations as its prompt has them; rows without any keep their order.
    An engine then needs one such beginning in its cache at a time, however small the cache and however many there are.
    """
    return sorted(range(len(shown)), key=lambda i: [(d.question, d.answer) for d in shown[i]])


def lettered(options: Sequence[str]) -> str:
    """The options one a line, "A. first" and on; ValueError above 26."""
    if len(options) > len(ascii_uppercase):
        raise ValueError(f"{len(options)} options cannot be lettered; at most {len(ascii_uppercase)}")
    return "\n".join(f"{letter}. {text}" for letter, text in zip(ascii_uppercase, options, strict=False))
