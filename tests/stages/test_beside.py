"""Engines and endpoints that answer at once: the failure of one ends the others."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from semievol_ray.errors import ConfigError, DeadlineReached, RunStopped
from semievol_ray.runs import Run, Step, read_events
from semievol_ray.stages.answer import Asked, answer, drafts_of
from semievol_ray.stages.beside import OvertakenError, Overtaking, side_by_side
from semievol_ray.stages.context import Context

SECONDS = 0.5


def _until_overtaken() -> None:
    asked = Overtaking()
    end = time.monotonic() + 20
    while time.monotonic() < end:
        asked.on_execution_step(None)
        time.sleep(0.01)


def _raising(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def test_failure_beside_ends_what_is_done_here_and_is_raised_as_itself() -> None:
    began = time.monotonic()
    with pytest.raises(RunStopped, match="the endpoint"):
        side_by_side(_until_overtaken, _raising(RunStopped("the endpoint")))
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("error", [RunStopped("here"), KeyboardInterrupt()])
def test_failure_here_ends_what_runs_beside(error: BaseException) -> None:
    ended: list[str] = []

    def beside() -> None:
        try:
            _until_overtaken()
        except OvertakenError:
            ended.append("beside")
            raise

    with pytest.raises(type(error)):
        side_by_side(_raising(error), beside)
    assert ended == ["beside"]


def test_deadline_of_one_leaves_the_other_to_come_to_its_own_end() -> None:
    ended: list[str] = []

    def slowly() -> None:
        time.sleep(0.2)
        ended.append("slowly")

    for here, beside in ((_raising(DeadlineReached("now")), slowly), (slowly, _raising(DeadlineReached("now")))):
        with pytest.raises(DeadlineReached):
            side_by_side(here, beside)
    assert ended == ["slowly", "slowly"]


def test_failure_ends_the_pieces_of_a_piece_beside_it_and_is_raised_as_itself() -> None:
    ended: list[str] = []

    def ending(name: str) -> Callable[[], None]:
        def work() -> None:
            try:
                _until_overtaken()
            finally:
                ended.append(name)

        return work

    def pieces() -> None:
        side_by_side(ending("a"), ending("b"))

    for works in ((pieces, _raising(RunStopped("far"))), (_raising(RunStopped("far")), pieces)):
        ended.clear()
        with pytest.raises(RunStopped, match="far"):
            side_by_side(*works)
        assert sorted(ended) == ["a", "b"]


def test_failure_is_told_rather_than_a_deadline_that_came_before_it() -> None:
    def later() -> None:
        time.sleep(0.2)
        raise RunStopped("later")

    with pytest.raises(RunStopped, match="later"):
        side_by_side(lambda: None, _raising(DeadlineReached("now")), later)


def test_failure_is_told_rather_than_the_deadline_that_came_here() -> None:
    def later() -> None:
        time.sleep(0.2)
        raise RunStopped("later")

    with pytest.raises(RunStopped, match="later"):
        side_by_side(_raising(DeadlineReached("now")), later)


def test_piece_that_was_overtaken_is_not_taken_for_done() -> None:
    went_on: list[str] = []

    def pieces() -> None:
        side_by_side(lambda: None, _until_overtaken)
        went_on.append("as if all were done")

    with pytest.raises(RunStopped, match="far"):
        side_by_side(pieces, _raising(RunStopped("far")))
    assert not went_on


def test_ctrl_c_while_this_thread_only_waits_ends_what_runs_beside_first() -> None:
    ended: list[str] = []

    def slowly() -> None:
        try:
            _until_overtaken()
        finally:
            time.sleep(0.3)
            ended.append("slowly")

    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        side_by_side(lambda: None, slowly)
    assert ended == ["slowly"]


@pytest.fixture
def endpoint() -> Iterator[Callable[[int], str]]:
    """endpoint(status) -> the URL of a server that answers each question so, after SECONDS."""
    servers: list[ThreadingHTTPServer] = []

    def serve(status: int) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                time.sleep(SECONDS)
                message = {"message": {"content": "Answer: food"}, "finish_reason": "stop"}
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps({"choices": [message], "usage": {}}).encode())

            def log_message(self, *_: object) -> None: ...

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/v1"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def _answer(context_of: Callable[..., Context], pool: Step, shown: Step, url: str, seconds: float) -> Context:
    far = {"model": "far", "demonstrations": 0, "endpoint": {"url": url, "max_concurrency": 1}}
    context = context_of(
        method={"embedder": "hash", "collaborators": [{"demonstrations": 0}, far]},
        speed={"engine_kwargs": {"seconds_per_request": seconds}},
    )
    answer(context, "drafts", drafts_of(context, Asked("rounds/0001", pool, shown, None), None))
    return context


@pytest.mark.usefixtures("small_ray")
def test_endpoint_is_asked_while_an_engine_with_every_cpu_answers(
    run: Run,
    pool: Step,
    shown: Step,
    context_of: Callable[..., Context],
    endpoint: Callable[[int], str],
) -> None:
    _answer(context_of, pool, shown, endpoint(200), 3.0)
    parts = [event for event in read_events(run.root) if event["kind"] == "part_committed"]
    sessions = [event for event in read_events(run.root) if event["kind"].startswith("session_")]
    assert len(parts) == 4
    assert [event["kind"] for event in sessions] == ["session_started"] * 2 + ["session_ended"] * 2


def _drafted(context_of: Callable[..., Context], pool: Step, shown: Step, num_replicas: object) -> list[str]:
    """The kinds of session events of three bases' drafts, two engines of which have room at once."""
    models = [{"model": name, "demonstrations": 0} for name in ("one", "two", "three")]
    context = context_of(
        method={"embedder": "hash", "collaborators": models},
        speed={"num_cpus_per_replica": 1, "num_replicas": num_replicas, "engine_kwargs": {"seconds_per_request": 0.2}},
    )
    wanted = drafts_of(context, Asked("rounds/0001", pool, shown, None), None)
    answer(context, "drafts", wanted)
    assert all(item.job.step.committed() for item in wanted)
    return [event["kind"] for event in read_events(context.run.root) if event["kind"].startswith("session_")]


@pytest.mark.usefixtures("small_ray")
def test_groups_that_have_room_beside_each_other_draft_at_once(
    pool: Step, shown: Step, context_of: Callable[..., Context]
) -> None:
    kinds = _drafted(context_of, pool, shown, "auto")
    assert kinds == ["session_started"] * 2 + ["session_ended"] * 2 + ["session_started", "session_ended"]


@pytest.mark.usefixtures("small_ray")
def test_groups_on_cpus_stand_alone_where_the_number_of_engines_is_set(
    pool: Step, shown: Step, context_of: Callable[..., Context]
) -> None:
    assert _drafted(context_of, pool, shown, 1) == ["session_started", "session_ended"] * 3


@pytest.mark.usefixtures("small_ray")
def test_one_name_at_two_endpoints_is_two_sessions(
    pool: Step, shown: Step, context_of: Callable[..., Context], endpoint: Callable[[int], str]
) -> None:
    far = [{"model": "far", "demonstrations": 0, "endpoint": {"url": endpoint(200)}} for _ in range(2)]
    context = context_of(method={"embedder": "hash", "collaborators": far})
    answer(context, "round-1", drafts_of(context, Asked("rounds/0001", pool, shown, None), None))
    events = [event for event in read_events(context.run.root) if event["kind"] == "session_ended"]
    assert sorted(event["session"] for event in events) == [
        "round-1 endpoint far (api_0)",
        "round-1 endpoint far (api_0_2)",
    ]


@pytest.mark.usefixtures("small_ray")
def test_endpoint_that_refuses_every_request_ends_the_engines_beside_it(
    pool: Step, shown: Step, context_of: Callable[..., Context], endpoint: Callable[[int], str]
) -> None:
    began = time.monotonic()
    with pytest.raises(ConfigError, match="status 401"):
        _answer(context_of, pool, shown, endpoint(401), 30.0)
    assert time.monotonic() - began < 25
