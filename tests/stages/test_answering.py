"""One question to one engine: what fits, what is cut, what fails."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from semievol_ray.core.prompts import Demonstration, Message, question_messages
from semievol_ray.engines.base import RequestFailedError, Sampling
from semievol_ray.engines.rendering import prompt_ids
from semievol_ray.engines.scripted import ByteTokenizer
from semievol_ray.errors import EngineDiedError, UserError
from semievol_ray.stages.answering import gathered

Asking = Callable[..., tuple[Any, Any]]
NEAREST = [Demonstration(f"nearest {i}", "Answer: food") for i in range(3)]
GREEDY = Sampling(0.0, 16)


def _render(k: int) -> tuple[Message, ...]:
    return question_messages("Say what it is.", "a thing", NEAREST[:k][::-1])


def _length(k: int) -> int:
    return len(prompt_ids(ByteTokenizer(), _render(k), "2024-07-26"))


def _ask(
    asker: Any, render: Callable[[int], Sequence[Message]] = _render, sampling: Sampling = GREEDY
) -> dict[str, Any]:
    return asyncio.run(asker.ask(render, 3, None, sampling, None))


@pytest.mark.parametrize("fits", [0, 1, 2, 3])
def test_most_demonstrations_that_leave_room_to_answer_are_shown_nearest_first(fits: int, asking: Asking) -> None:
    exactly = _length(fits) + GREEDY.max_tokens
    engine, asker = asking(lambda _: "Answer: food", max_model_len=exactly)
    reply = _ask(asker)
    assert (reply["num_demonstrations"], reply["num_prompt_tokens"], reply["error"]) == (fits, _length(fits), None)
    assert [f"nearest {i}" in engine.prompts[0] for i in range(3)] == [i < fits for i in range(3)]


def test_question_too_long_alone_is_an_error_row_and_reaches_no_engine(asking: Asking) -> None:
    engine, asker = asking(lambda _: "Answer: food", max_model_len=_length(0) + GREEDY.max_tokens - 1)
    reply = _ask(asker)
    assert f"takes {_length(0)} tokens" in reply["error"]
    assert (reply["answer"], reply["mean_nll"], reply["num_tokens"], reply["num_demonstrations"]) == (None, None, 0, 0)
    assert engine.requests == []


def test_whole_completion_has_both_confidences_of_its_own_tokens(asking: Asking) -> None:
    text = "Answer: food"
    reply = _ask(asking(lambda _: text)[1])
    nll = [(i + 1) / 8 for i in range(len(text))]  # a token a byte
    assert reply["mean_nll"] == pytest.approx(sum(nll) / len(nll))
    assert reply["answer_nll"] == pytest.approx(sum(nll[-4:]) / 4)
    assert (reply["answer"], reply["num_tokens"]) == ("food", len(text))


def test_completion_cut_off_at_max_tokens_is_parsed_but_has_no_confidence(asking: Asking) -> None:
    reply = _ask(asking(lambda _: ("Answer: food and", "length"))[1])
    assert (reply["answer"], reply["mean_nll"], reply["answer_nll"]) == ("food", None, None)


@pytest.mark.parametrize("text", ["", "who knows"])
def test_unreadable_completion_keeps_its_text_and_has_no_answer(text: str, asking: Asking) -> None:
    reply = _ask(asking(lambda _: text)[1])
    assert (reply["text"], reply["answer"], reply["answer_nll"], reply["error"]) == (text, None, None, None)


def test_endpoint_is_asked_all_messages_and_its_own_counts_are_kept(asking: Asking) -> None:
    engine, asker = asking(lambda _: "The Answer: food", max_model_len=1, endpoint=True)
    reply = _ask(asker)
    assert engine.requests[0].messages == _render(3)
    assert engine.requests[0].prompt_ids == ()
    assert (reply["num_demonstrations"], reply["num_prompt_tokens"], reply["num_tokens"]) == (3, 77, 5)
    assert reply["mean_nll"] == pytest.approx((1 + 2 + 3) / 8 / 3)
    assert reply["answer_nll"] == pytest.approx(3 / 8)  # of the third token, " food"


@pytest.mark.parametrize("endpoint", [False, True])
def test_request_the_engine_gave_up_on_is_an_error_row_and_leaves_the_load(endpoint: bool, asking: Asking) -> None:
    _, asker = asking(lambda _: RequestFailedError("status 500, the last of 7 tries"), endpoint=endpoint)
    reply = _ask(asker)
    assert reply["error"] == "status 500, the last of 7 tries"
    assert (reply["text"], reply["answer"], reply["finish_reason"], reply["num_tokens"]) == (None, None, None, 0)
    assert asker.load.outstanding == 0


@pytest.mark.parametrize("end_of_turn", [False, True])
def test_score_is_of_the_rendered_answer_after_the_whole_prompt(end_of_turn: bool, asking: Asking) -> None:
    engine, asker = asking(lambda _: "")
    scores = asyncio.run(asker.score(_render(0), "food", "warm", end_of_turn=end_of_turn))
    (request,) = engine.scored
    assert list(request.prompt_ids) == prompt_ids(ByteTokenizer(), _render(0), "2024-07-26")
    assert bytes(request.answer_ids[:12]) == b"Answer: food"
    assert request.answer_ids[12:] == ((256,) if end_of_turn else ())
    assert scores == tuple(-(i + 1) / 4 for i in range(12 + end_of_turn))
    assert (request.adapter, asker.seen, asker.load.outstanding) == ("warm", [1], 0)


@pytest.mark.parametrize(("spare", "fits"), [(0, True), (-1, False)])
def test_score_of_what_does_not_fit_is_none_and_reaches_no_engine(spare: int, fits: bool, asking: Asking) -> None:
    engine, asker = asking(lambda _: "", max_model_len=_length(0) + len("Answer: food") + spare)
    scores = asyncio.run(asker.score(_render(0), "food", None, end_of_turn=False))
    assert (scores is not None, len(engine.scored)) == (fits, int(fits))


def test_score_by_an_endpoint_is_refused(asking: Asking) -> None:
    _, asker = asking(lambda _: "", endpoint=True)
    with pytest.raises(UserError, match="scores no answers"):
        asyncio.run(asker.score(_render(0), "food", None, end_of_turn=False))


def test_load_seen_is_the_number_of_requests_an_engine_held(asking: Asking) -> None:
    _, asker = asking(lambda _: "Answer: food")

    async def five() -> None:
        await asyncio.gather(*[asker.ask(_render, 0, None, GREEDY, None) for _ in range(5)])

    asyncio.run(five())
    assert sorted(asker.seen) == [1, 2, 3, 4, 5]
    assert asker.load.outstanding == 0


def test_death_of_the_engine_cancels_the_other_rows_and_leaves_as_itself() -> None:
    ended: list[str] = []

    async def slow() -> dict[str, Any]:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return {}

    async def dies() -> dict[str, Any]:
        await asyncio.sleep(0.01)
        raise EngineDiedError("gone")

    with pytest.raises(EngineDiedError, match="gone"):
        asyncio.run(gathered([slow(), dies(), slow()]))
    assert ended == ["cancelled", "cancelled"]


def test_score_that_the_engine_gives_up_is_none_and_no_failure_of_the_part(asking: Asking) -> None:
    engine, asker = asking(lambda _: "Answer: food")

    async def refused(_: object) -> tuple[float, ...]:
        raise RequestFailedError("this request alone")

    engine.score = refused  # type: ignore[method-assign, assignment]
    assert asyncio.run(asker.score(_render(0), "food", None, end_of_turn=True)) is None
