"""Equal questions are asked as one, others alone, and everyone gets an answer or the error of its own question."""

import asyncio
from collections.abc import Sequence

import pytest

from semievol_ray.engines.together import Together


class Oracle:
    """Numbers its answers; a question that begins with `bad` fails."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.num = 0

    async def answer(self, question: str, items: Sequence[str]) -> Sequence[str]:
        self.asked.append((question, num := len(items)))
        await asyncio.sleep(0)
        if question.startswith("bad"):
            raise ValueError(question)
        self.num += num
        return [f"{question} {i}{item}" for i, item in enumerate(items, self.num - num)]


def test_equal_questions_that_wait_together_are_one_with_an_answer_for_each() -> None:
    oracle = Oracle()

    async def all_asked() -> list[str]:
        together = Together(oracle.answer)
        return await asyncio.gather(*(together.ask(q, "") for q in ("a", "b", "a", "a")))

    answers = asyncio.run(all_asked())
    assert sorted(oracle.asked) == [("a", 3), ("b", 1)]
    assert [answer[0] for answer in answers] == ["a", "b", "a", "a"]
    assert len(set(answers)) == 4


def test_question_that_comes_after_its_equals_were_sent_is_asked_anew() -> None:
    oracle = Oracle()

    async def one_after_the_other() -> list[str]:
        together = Together(oracle.answer)
        return [await together.ask("a", ""), await together.ask("a", "")]

    assert asyncio.run(one_after_the_other()) == ["a 0", "a 1"]


def test_each_has_the_answer_to_its_own_item() -> None:
    async def all_asked() -> list[str]:
        together = Together(Oracle().answer)
        return await asyncio.gather(*(together.ask("a", item) for item in "xyz"))

    assert asyncio.run(all_asked()) == ["a 0x", "a 1y", "a 2z"]


def test_error_reaches_all_who_asked_with_it_and_nobody_else() -> None:
    async def all_asked() -> list[str | BaseException]:
        together = Together(Oracle().answer)
        return await asyncio.gather(*(together.ask(q, "") for q in ("bad", "bad", "good")), return_exceptions=True)

    first, second, third = asyncio.run(all_asked())
    assert isinstance(first, ValueError)
    assert isinstance(second, ValueError)
    assert third == "good 0"


def test_caller_that_went_away_is_not_answered_and_the_others_are() -> None:
    oracle = Oracle()

    async def one_leaves() -> str:
        together = Together(oracle.answer)
        gone, stays = asyncio.ensure_future(together.ask("a", "")), asyncio.ensure_future(together.ask("a", ""))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        return await stays

    assert asyncio.run(one_leaves()) == "a 0"
    assert oracle.asked == [("a", 1)]
