"""The endpoint client against a real local server: what it sends, how it paces and retries, what it gives up on."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import pytest

from semievol_ray.core.answers import Labels
from semievol_ray.core.prompts import Message
from semievol_ray.engines.base import Completion, EngineSpec, Request, RequestFailedError, Sampling, ScoreRequest
from semievol_ray.engines.openai import OpenAIGenerator
from semievol_ray.engines.openai_reply import seconds_to_wait
from semievol_ray.errors import ConfigError, UserError
from semievol_ray.methodconfig import EndpointConfig

KEY = "sk-secret-0123456789abcdef"
ASKED = Request((), Sampling(0.0, 16), None, (Message("system", "Say."), Message("user", "a thing")))
TOKENS = [("Answer", -0.5), (":", -0.25), (" food", -1.5)]


@dataclass(frozen=True)
class Reply:
    """What the server says to one request, and after how long."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass
class Server:
    """A local endpoint that answers request i with replies[i], the last of them for ever."""

    replies: Sequence[Reply] | Callable[[dict[str, Any]], Reply] = ()
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most_at_once: int = 0
    _held: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, body: dict[str, Any], key: str | None) -> Reply:
        with self._lock:
            self.asked.append(body)
            self.keys.append(key)
            self.times.append(time.monotonic())
            self._held += 1
            self.most_at_once = max(self.most_at_once, self._held)
            number = len(self.asked)
        reply = self.replies(body) if callable(self.replies) else self.replies[min(number, len(self.replies)) - 1]
        time.sleep(reply.seconds)
        with self._lock:
            self._held -= 1
        return reply


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            reply = state.answer(body | {"path": self.path}, self.headers["authorization"])
            data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in {**reply.headers, "content-length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            return None

    class Listener(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            return None  # a client that timed out has gone

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    listener = Listener(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{listener.server_address[1]}/v1"
    yield state
    listener.shutdown()
    thread.join()
    listener.server_close()


def _chat(text: str = "Answer: food", finish: str | None = "stop", **more: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish, **more}]}


def _logprobs(tokens: Sequence[tuple[str, float]]) -> dict[str, Any]:
    content = [{"token": t, "logprob": p, "bytes": list(t.encode()), "top_logprobs": []} for t, p in tokens]
    return {"logprobs": {"content": content}}


def _spec(endpoint: EndpointConfig) -> EngineSpec:
    return EngineSpec(
        "openai", "served", "", None, {}, "auto", 512, 16, 0, 1, False, Labels(("food", "plant")), endpoint=endpoint
    )


def _ask(
    server: Server,
    requests: Sequence[Request] = (ASKED,),
    beat: Callable[[], None] = lambda: None,
    **settings: Any,
) -> list[Completion | BaseException]:
    async def ask() -> list[Completion | BaseException]:
        engine = OpenAIGenerator(_spec(EndpointConfig(url=server.url, **settings)), beat, first_delay_seconds=0.01)
        try:
            async with asyncio.timeout(20):
                return list(await asyncio.gather(*[engine.generate(r) for r in requests], return_exceptions=True))
        finally:
            engine.close()
            await asyncio.sleep(0.01)  # the connections close

    return asyncio.run(ask())


def _failure(server: Server, **settings: Any) -> RequestFailedError:
    failure = _ask(server, **settings)[0]
    assert isinstance(failure, RequestFailedError)
    return failure


def _answered(server: Server, **settings: Any) -> Completion:
    completion = _ask(server, **settings)[0]
    assert isinstance(completion, Completion), completion
    return completion


def test_request_carries_messages_model_sampling_and_key(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    server.replies = [Reply(_chat())]
    request = Request((), Sampling(0.7, 9, top_p=0.9, top_k=20, stop=("\n",)), None, ASKED.messages)
    _ask(server, [request], api_key_env="MY_KEY")
    assert server.asked == [
        {
            "path": "/v1/chat/completions",
            "model": "served",
            "messages": [{"role": "system", "content": "Say."}, {"role": "user", "content": "a thing"}],
            "temperature": 0.7,
            "max_tokens": 9,
            "top_p": 0.9,
            "top_k": 20,
            "stop": ["\n"],
            "logprobs": True,
        }
    ]
    assert server.keys == [f"Bearer {KEY}"]


@pytest.mark.parametrize("ending", [[], [("<|im_end|>", -3.0)], [("", -3.0)]], ids=["none", "special", "empty"])
def test_logprobs_of_the_text_are_kept_without_that_of_the_end_of_turn(
    ending: list[tuple[str, float]], server: Server
) -> None:
    usage = {"usage": {"prompt_tokens": 21, "completion_tokens": 4}}
    server.replies = [Reply(_chat(**_logprobs(TOKENS + ending)) | usage)]
    done = _answered(server)
    assert (done.text, done.finish_reason) == ("Answer: food", "stop")
    assert done.token_logprobs == (-0.5, -0.25, -1.5)
    assert done.token_texts == ("Answer", ":", " food")
    assert (done.num_prompt_tokens, done.num_tokens) == (21, 4)


def test_character_of_several_tokens_goes_with_the_last_of_them(server: Server) -> None:
    first, second = "é".encode()[:1], "é".encode()[1:]
    pieces: list[dict[str, Any]] = [
        {"token": "\\xc3", "logprob": -1.0, "bytes": list(first)},
        {"token": "\\xa9", "logprob": -2.0, "bytes": list(second)},
        {"token": "t", "logprob": -3.0, "bytes": [116]},
    ]
    server.replies = [Reply(_chat("ét", logprobs={"content": pieces}))]
    assert _answered(server).token_texts == ("", "é", "t")


def test_logprobs_that_do_not_make_up_the_text_have_no_texts(server: Server) -> None:
    server.replies = [Reply(_chat("other", "length", **_logprobs(TOKENS)))]
    done = _answered(server)
    assert (done.token_texts, done.token_logprobs, done.finish_reason) == (None, (-0.5, -0.25, -1.5), "length")


@pytest.mark.parametrize(
    ("finish", "seen"), [("stop", "stop"), (None, "stop"), ("length", "length"), ("content_filter", "length")]
)
def test_only_a_whole_answer_counts_as_stopped(finish: str | None, seen: str, server: Server) -> None:
    server.replies = [Reply(_chat(finish=finish))]
    done = _answered(server)
    assert (done.finish_reason, done.token_logprobs, done.token_texts) == (seen, (), None)


def test_server_without_logprobs_is_asked_without_them_from_then_on(server: Server) -> None:
    refusal = Reply({"error": {"message": "logprobs are not supported with this model"}}, 400)
    server.replies = lambda body: refusal if "logprobs" in body else Reply(_chat())
    done = _ask(server, [ASKED] * 3, max_concurrency=1, max_retries=0)
    assert [c.text for c in done if isinstance(c, Completion)] == ["Answer: food"] * 3
    assert ["logprobs" in body for body in server.asked] == [True, False, False, False]


def test_server_that_names_max_tokens_otherwise_gets_its_name(server: Server) -> None:
    told = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    server.replies = lambda body: Reply({"error": {"message": told}}, 400) if "max_tokens" in body else Reply(_chat())
    assert _answered(server, max_retries=0).text == "Answer: food"
    assert server.asked[1]["max_completion_tokens"] == 16


@pytest.mark.parametrize(
    "bad",
    [
        Reply({"error": "busy"}, 500),
        Reply(b"<html>gateway</html>", 502),
        Reply({"error": {"message": "slow down"}}, 429),
        Reply(b"{not json"),
        Reply({"choices": []}),
        Reply({"choices": [{"message": {"content": 7}}]}),
        Reply(_chat(**_logprobs([("Answer", float("nan"))]))),
        Reply(b"\xff\xfe\x00"),
    ],
    ids=["500", "502", "429", "json", "choices", "content", "nan", "bytes"],
)
def test_failed_tries_are_repeated_until_one_is_answered(bad: Reply, server: Server) -> None:
    server.replies = [bad, bad, Reply(_chat())]
    assert _answered(server, max_retries=2).text == "Answer: food"
    assert len(server.asked) == 3


@pytest.mark.parametrize("retries", [0, 3])
def test_request_that_keeps_failing_fails_alone_after_its_retries(retries: int, server: Server) -> None:
    busy, fine = Reply({"error": {"message": "over capacity"}}, 503), Reply(_chat())
    server.replies = lambda body: busy if body["messages"][-1]["content"] == "bad" else fine
    bad = Request((), ASKED.sampling, None, (Message("user", "bad"),))
    first, second = _ask(server, [bad, ASKED], max_retries=retries)
    assert isinstance(first, RequestFailedError)
    assert "status 503 (over capacity)" in str(first)
    assert f"{retries + 1} tries" in str(first)
    assert isinstance(second, Completion)
    assert len(server.asked) == retries + 2


def test_retry_after_is_waited_for_by_every_request(server: Server) -> None:
    server.replies = [Reply({}, 429, {"retry-after": "0.4"}), Reply(_chat())]
    done = _ask(server, [ASKED, ASKED], max_concurrency=1)
    assert all(isinstance(c, Completion) for c in done)
    assert server.times[1] - server.times[0] >= 0.4
    assert len(server.times) == 3


def test_request_held_back_on_purpose_beats_as_an_engine_at_work_does(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semievol_ray.engines.openai.BEAT_SECONDS", 0.05)
    server.replies, beats = [Reply({}, 429, {"retry-after": "0.5"}), Reply(_chat())], list[float]()
    done = _ask(server, [ASKED, ASKED], lambda: beats.append(time.monotonic()), requests_per_minute=120)
    assert all(isinstance(c, Completion) for c in done)
    moments = [server.times[0], *beats, server.times[-1]]
    assert max(later - earlier for earlier, later in pairwise(moments)) < 0.3


def test_retry_after_is_read_as_seconds_or_as_a_date() -> None:
    assert seconds_to_wait("7") == 7
    assert seconds_to_wait("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert seconds_to_wait("Wed, 21 Oct 2115 07:28:00 GMT") == 3600
    assert [seconds_to_wait(text) for text in (None, "soon", "nan", "inf")] == [None] * 4


def test_slow_answer_is_given_up_at_the_timeout_and_asked_for_again(server: Server) -> None:
    server.replies = [Reply(_chat(), seconds=0.6), Reply(_chat())]
    assert _answered(server, timeout_seconds=0.2).text == "Answer: food"
    assert server.times[1] - server.times[0] < 0.5
    server.replies = [Reply(_chat(), seconds=0.6)]
    assert "no answer within 0.1 s" in str(_failure(server, timeout_seconds=0.1, max_retries=1))


def test_server_that_is_not_there_is_tried_again(server: Server) -> None:
    gone = Server(url="http://127.0.0.1:9/v1")
    failure = _failure(gone, max_retries=1)
    assert "http://127.0.0.1:9/v1: ConnectError" in str(failure)
    assert server.asked == []


def test_requests_leave_no_faster_than_the_pace(server: Server) -> None:
    server.replies = [Reply({}, 500), Reply(_chat())]
    _ask(server, [ASKED] * 5, requests_per_minute=600)  # one each 0.1 s, the retry too
    gaps = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
    assert len(gaps) == 5
    assert server.times[-1] - server.times[0] >= 0.48
    assert min(gaps) > 0.05


@pytest.mark.parametrize("most", [1, 3])
def test_no_more_requests_are_out_than_max_concurrency(most: int, server: Server) -> None:
    server.replies = [Reply(_chat(), seconds=0.03)]
    _ask(server, [ASKED] * 9, max_concurrency=most)
    assert server.most_at_once == most
    assert len(server.asked) == 9


@pytest.mark.parametrize("status", [401, 403, 404, 301])
def test_refusal_of_every_request_names_url_status_message_and_remedy_at_once(
    status: int, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    server.replies = [Reply({"error": {"message": f"what is {KEY}? " + "no " * 500}}, status)]
    error = _ask(server, api_key_env="MY_KEY")[0]
    assert isinstance(error, ConfigError)
    assert len(server.asked) == 1
    for part in (server.url, f"status {status}", "what is ***?", "'served'", "MY_KEY"):
        assert part in str(error)
    assert KEY not in str(error)
    assert len(str(error)) < 600


def test_refusal_without_a_key_says_that_none_was_sent(server: Server) -> None:
    server.replies = [Reply({"detail": "Not authenticated"}, 401)]
    error = _ask(server)[0]
    assert isinstance(error, ConfigError)
    assert "api_key_env, which is not set" in str(error)
    assert server.keys == [None]


def test_bad_request_ends_its_row_without_a_retry(server: Server) -> None:
    server.replies = [Reply({"error": {"message": "context length is 512"}}, 400)]
    assert "status 400 (context length is 512)" in str(_failure(server))
    assert len(server.asked) == 1


@pytest.mark.parametrize("padding", range(170, 200, 6))
@pytest.mark.parametrize(
    "reply_of", [lambda text: Reply({"message": text}, 400), lambda text: Reply(text.encode())], ids=["400", "garbage"]
)
def test_key_that_a_server_repeats_is_shown_not_even_in_part(
    reply_of: Callable[[str], Reply], padding: int, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    server.replies = [reply_of("x" * padding + KEY)]
    assert KEY[:6] not in str(_failure(server, api_key_env="MY_KEY", max_retries=0))


@pytest.mark.parametrize("value", [None, "  ", "sk-\u00e9", "sk-a\nb", "sk-a b"])
def test_missing_or_impossible_key_is_refused_by_its_variable_alone(
    value: str | None, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(ConfigError, match="MY_KEY") as raised:
        OpenAIGenerator(_spec(EndpointConfig(url=server.url, api_key_env="MY_KEY")))
    assert "sk-" not in str(raised.value)


def test_password_and_query_of_the_url_are_sent_but_not_shown(server: Server) -> None:
    server.replies = [Reply({}, 404)]
    open_url, server.url = server.url, server.url.replace("http://", "http://me:hunter2@") + "?version=secret"
    error = _ask(server)[0]
    assert isinstance(error, ConfigError)
    assert open_url in str(error)
    assert not {"hunter2", "secret"} & set(str(error).replace("@", " ").replace("=", " ").split())
    assert server.asked[0]["path"] == "/v1/chat/completions?version=secret"


def test_endpoint_scores_nothing(server: Server) -> None:
    engine = OpenAIGenerator(_spec(EndpointConfig(url=server.url)))
    with pytest.raises(UserError, match="scores no answers"):
        asyncio.run(engine.score(ScoreRequest((), ())))
