"""What is served, asked by the real `openai` client: models, chat, streams, and every way to ask wrongly."""

import time
from typing import Any

import httpx
import openai
import pytest

from semievol_ray.endpoint.gate import MOST_BODY_BYTES
from semievol_ray.endpoint.models import Serving
from tests.endpoint.conftest import CONTEXT, KEY, TASK, WORDS, listening, slow

NUM_ASKED = 60


def client(url: str, key: str = KEY, **more: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key=key, timeout=20, **more)


def messages(question: str) -> Any:
    return [{"role": "system", "content": TASK.instruction}, {"role": "user", "content": question}]


def ask(to: openai.OpenAI, model: str, question: str, **more: Any) -> Any:
    return to.chat.completions.create(model=model, messages=messages(question), temperature=0, **more)


def test_models_are_the_base_and_every_round(url: str, serving: Serving) -> None:
    assert [model.id for model in client(url).models.list()] == list(serving.models)


def test_chat_answers_as_the_model_that_was_named(url: str, serving: Serving) -> None:
    to, right = client(url), dict.fromkeys(serving.models, 0)
    for i in range(NUM_ASKED):
        for model in right:
            reply = ask(to, model, f"thing {i} [{WORDS[i % 3]}]", max_tokens=32)
            assert reply.model == model
            right[model] += reply.choices[0].message.content == f"Answer: {WORDS[i % 3]}"
    assert right["things-round-1"] > right["things-round-0"]
    assert right["things-round-1"] > right["things-base"]
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_stream_brings_the_same_text_in_pieces_and_how_it_ended(url: str) -> None:
    to, question = client(url), "an oak [plant]"
    whole = ask(to, "things-round-1", question).choices[0].message.content
    chunks = list(ask(to, "things-round-1", question, stream=True, stream_options={"include_usage": True}))
    deltas = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert "".join(text or "" for text in deltas) == whole
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens == len(whole)


@pytest.mark.parametrize("key", ["sk-wrong", "", KEY[:-1]])
def test_wrong_key_is_refused_and_not_repeated_back(url: str, key: str) -> None:
    with pytest.raises(openai.AuthenticationError) as raised:
        ask(client(url, key or "-"), "things-base", "an oak [plant]")
    assert raised.value.status_code == 401
    assert "sk-wrong" not in str(raised.value)
    assert httpx.get(url.replace("/v1", "/health")).status_code == 200


def test_unknown_model_is_refused_with_those_there_are(url: str) -> None:
    with pytest.raises(openai.NotFoundError, match="things-round-1") as raised:
        ask(client(url), "things-round-9", "an oak [plant]")
    assert raised.value.code == "model_not_found"


def test_request_of_a_megabyte_is_refused_by_its_length_and_the_next_is_answered(url: str) -> None:
    to = client(url, max_retries=0)
    with pytest.raises(openai.BadRequestError, match=f"context holds {CONTEXT}"):
        ask(to, "things-base", "very " * 200_000)
    assert ask(to, "things-base", "an oak [plant]").choices[0].message.content.startswith("Answer: ")


def test_request_of_many_megabytes_is_refused_unread(url: str) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        ask(client(url, max_retries=0), "things-base", "x" * (MOST_BODY_BYTES + 1))
    assert raised.value.status_code == 413


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": []},
        {"messages": [{"role": "poet", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"temperature": -1},
        {"temperature": "warm"},
        {"max_tokens": 0.5},
        {"n": 2},
    ],
)
def test_wrong_value_is_a_bad_request(url: str, wrong: dict[str, Any]) -> None:
    body = {"model": "things-base", "messages": messages("an oak [plant]"), **wrong}
    with pytest.raises(openai.BadRequestError):
        client(url).chat.completions.create(**body)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"\xff"'])
def test_body_that_is_no_object_is_a_bad_request(url: str, body: bytes) -> None:
    for path in ("chat/completions", "label"):
        reply = httpx.post(f"{url}/{path}", content=body, headers={"Authorization": f"Bearer {KEY}"})
        assert reply.status_code == 400
        assert reply.json()["error"]["message"]


def test_client_that_leaves_frees_its_seat_for_the_next(serving: Serving) -> None:
    with listening(slow(serving, seconds=1.5, seats=1)) as url:
        to = client(url, max_retries=0)
        for _ in range(4):
            stream = ask(to, "things-base", "an oak [plant]", stream=True)
            next(iter(stream))
            stream.close()
        began = time.monotonic()
        ask(to, "things-base", "an ash [plant]")
        assert time.monotonic() - began < 4  # five in a row would take 7.5 seconds
