"""One question to one engine and back: messages -> token ids -> completion -> the columns of a table.

Invariant: whatever happens to one row, its result is one mapping with every completion column; log-probabilities end
here.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, TypeVar

from semievol_ray.core import confidence
from semievol_ray.core.prompts import Message
from semievol_ray.engines.base import Completion, Generator, Request, RequestFailedError, Sampling, ScoreRequest
from semievol_ray.engines.rendering import answer_ids, end_of_turn_id, prompt_ids, token_spans
from semievol_ray.errors import UserError
from semievol_ray.tasks import Task

_end_of_turn_id = lru_cache(maxsize=4)(end_of_turn_id)
"""Of a tokenizer, which is one a process: the template is rendered for it once."""
Row = dict[str, Any]
T = TypeVar("T")


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
        """Answer one question. `render(k)` gives its messages with the k nearest demonstrations, or with k
        steps of what else stands beside it; as much as fits is shown.

        Returns the completion columns and `num_demonstrations`, the number that fitted (all where the engine has no
        tokenizer to measure with). A question too long alone, or one the engine gave up on, is a row with `error` set,
        not an exception.
        """
        try:
            request, shown = self._request(render, num_demonstrations, sampling, adapter)
        except PromptTooLongError as error:
            return failed(str(error)) | {"num_demonstrations": 0}
        try:
            completion = await self._held(self.engine.generate(request))
        except RequestFailedError as error:
            return failed(str(error)) | {"num_demonstrations": shown}
        num_prompt_tokens = completion.num_prompt_tokens
        return self._columns(completion, options) | {
            "num_prompt_tokens": len(request.prompt_ids) if num_prompt_tokens is None else num_prompt_tokens,
            "num_demonstrations": shown,
        }

    async def score(
        self, messages: Sequence[Message], answer: str, adapter: str | None, *, end_of_turn: bool
    ) -> tuple[float, ...] | None:
        """See `scores`, of one answer."""
        found = await self.scores(messages, [answer], adapter, end_of_turn=end_of_turn)
        return None if found is None else found[0]

    async def scores(
        self, messages: Sequence[Message], answers: Sequence[str], adapter: str | None, *, end_of_turn: bool
    ) -> list[tuple[float, ...]] | None:
        """log P of each token of each rendered canonical answer (and of the end-of-turn token) after the messages.

        Teacher-forced, raw, in nats, from the ids a training example of this answer has; None when one does not fit the
        model, or the engine gave one up.
        """
        tokenizer = self.engine.tokenizer
        if tokenizer is None:
            raise UserError("an endpoint scores no answers; confidence is the student's, answered by its own engine")
        asked = tuple(prompt_ids(tokenizer, messages, self.template_date))
        end = _end_of_turn_id(tokenizer, self.template_date)  # type: ignore[arg-type]  # which are all hashable
        whole = [tuple(answer_ids(tokenizer, self.task.render_answer(answer), end)) for answer in answers]
        forced = whole if end_of_turn else [ids[:-1] for ids in whole]
        if len(asked) + max(map(len, forced)) > self.max_model_len:
            return None
        requests = [ScoreRequest(asked, ids, adapter) for ids in forced]
        try:
            return list(await asyncio.gather(*(self._held(self.engine.score(request)) for request in requests)))
        except RequestFailedError:
            return None

    async def _held(self, answer: Awaitable[T]) -> T:
        """Await what the engine was asked, counted in its load meanwhile."""
        self.load.outstanding += 1
        try:
            return await answer
        finally:
            self.seen.append(self.load.outstanding)
            self.load.outstanding -= 1

    def _request(
        self, render: Callable[[int], Sequence[Message]], most: int, sampling: Sampling, adapter: str | None
    ) -> tuple[Request, int]:
        """The request with as many of the nearest demonstrations as fit, and their number."""
        tokenizer = self.engine.tokenizer
        if tokenizer is None:
            return Request((), sampling, adapter, tuple(render(most))), most
        room = self.max_model_len - sampling.max_tokens
        for shown in range(most, -1, -1):
            ids = prompt_ids(tokenizer, render(shown), self.template_date)
            if len(ids) <= room:
                return Request(tuple(ids), sampling, adapter), shown
        raise PromptTooLongError(
            f"the question alone takes {len(ids)} tokens; numerics.max_model_len {self.max_model_len} less "
            f"{sampling.max_tokens} to answer leaves {room}"
        )

    def _columns(self, completion: Completion, options: Sequence[str] | None) -> Row:
        parsed = self.task.parse(completion.text, options)
        whole = completion.finish_reason == "stop"  # a completion cut off at max_tokens has no H
        mean = confidence.mean_nll(completion.token_logprobs) if whole else None
        answer = None
        if whole and parsed is not None and completion.token_logprobs:
            spans = self._spans(completion)
            logprobs = completion.token_logprobs
            answer = confidence.answer_nll(logprobs, spans, parsed.start, parsed.end) if spans else None
        return {
            "text": completion.text,
            "answer": parsed.answer if parsed else None,
            "finish_reason": completion.finish_reason,
            "num_tokens": len(completion.token_ids) if completion.num_tokens is None else completion.num_tokens,
            "mean_nll": mean,
            "answer_nll": answer,
            "error": None,
        }

    def _spans(self, completion: Completion) -> list[tuple[int, int]] | None:
        """Characters [start, end) of each token with a log-probability; None where they cannot be told."""
        if completion.token_texts is not None:
            return list(pairwise(accumulate(map(len, completion.token_texts), initial=0)))
        if self.engine.tokenizer is None:
            return None
        return token_spans(self.engine.tokenizer, completion.token_ids, completion.text)


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
