"""One question to one engine and back: messages -> token ids -> completion -> the columns of a table.

Invariant: whatever happens to one row, its result is one mapping with every completion column; log-probabilities end
here.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from semievol_ray.core import confidence
from semievol_ray.core.prompts import Message
from semievol_ray.engines.base import Completion, Generator, Request, Sampling
from semievol_ray.engines.rendering import prompt_ids, token_spans
from semievol_ray.tasks import Task

Row = dict[str, Any]


class PromptTooLongError(Exception):
    """A question does not fit the model even without demonstrations."""


@dataclass
class Load:
    """How many requests an engine holds."""

    outstanding: int = 0


@dataclass(frozen=True)
class Asker:
    """An engine with what is needed to ask it: the task, the longest context, and the date templates are given.

    `seen` gathers the engine's load each time a request of this asker ends.
    """

    engine: Generator
    task: Task
    max_model_len: int
    template_date: str
    load: Load
    seen: list[int]

    async def ask(
        self,
        render: Callable[[int], Sequence[Message]],
        num_demonstrations: int,
        options: Sequence[str] | None,
        sampling: Sampling,
        adapter: str | None,
    ) -> Row:
        """Answer one question. `render(k)` gives its messages with the k nearest demonstrations.

        Returns the completion columns and `num_demonstrations`, the number that fitted. A question too long alone is a
        row with `error` set, not an exception.
        """
        try:
            ids, shown = self._fitted(render, num_demonstrations, sampling.max_tokens)
        except PromptTooLongError as error:
            return failed(str(error)) | {"num_demonstrations": 0}
        self.load.outstanding += 1
        try:
            completion = await self.engine.generate(Request(tuple(ids), sampling, adapter))
        finally:
            self.seen.append(self.load.outstanding)
            self.load.outstanding -= 1
        return self._columns(completion, options) | {"num_prompt_tokens": len(ids), "num_demonstrations": shown}

    def _fitted(self, render: Callable[[int], Sequence[Message]], most: int, max_tokens: int) -> tuple[list[int], int]:
        """Prompt ids with as many of the nearest demonstrations as leave room for `max_tokens`."""
        room = self.max_model_len - max_tokens
        for shown in range(most, -1, -1):
            ids = prompt_ids(self.engine.tokenizer, render(shown), self.template_date)
            if len(ids) <= room:
                return ids, shown
        raise PromptTooLongError(
            f"the question alone takes {len(ids)} tokens; numerics.max_model_len {self.max_model_len} less "
            f"{max_tokens} to answer leaves {room}"
        )

    def _columns(self, completion: Completion, options: Sequence[str] | None) -> Row:
        parsed = self.task.parse(completion.text, options)
        whole = completion.finish_reason == "stop"  # a completion cut off at max_tokens has no H
        mean = confidence.mean_nll(completion.token_logprobs) if whole else None
        answer = None
        if whole and parsed is not None:
            spans = token_spans(self.engine.tokenizer, completion.token_ids, completion.text)
            answer = confidence.answer_nll(completion.token_logprobs, spans, parsed.start, parsed.end)
        return {
            "text": completion.text,
            "answer": parsed.answer if parsed else None,
            "finish_reason": completion.finish_reason,
            "num_tokens": len(completion.token_ids),
            "mean_nll": mean,
            "answer_nll": answer,
            "error": None,
        }


def failed(reason: str) -> Row:
    """The completion columns of a row that no engine answered."""
    empty = dict.fromkeys(["text", "answer", "finish_reason", "mean_nll", "answer_nll"])
    return {**empty, "num_prompt_tokens": 0, "num_tokens": 0, "error": reason}


async def gathered(rows: Sequence[Any]) -> list[Row]:
    """The results of many `ask` calls in order; the first failure cancels the others and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(row) for row in rows]
    except BaseExceptionGroup as failures:  # callers look for EngineDiedError, not for a group that holds one
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
