"""A scripted engine behind the application that every replica runs, on a port of this machine, without Ray."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import uvicorn

from semievol_ray.core.answers import Labels
from semievol_ray.core.certificate import Certificate
from semievol_ray.endpoint.application import build
from semievol_ray.endpoint.gate import key_digest
from semievol_ray.endpoint.models import Labelling, Serving
from semievol_ray.engines.base import EngineSpec, Sampling
from semievol_ray.engines.scripted import finetune
from semievol_ray.stages.alone import Alone
from semievol_ray.tasks import Task

KEY = "sk-local-only-0123456789"
WORDS = ("plant", "animal", "food")
CONTEXT = 4096
TASK = Task("kinds", "Say what kind of thing it is.", Labels(WORDS), max_tokens=32)
CERTIFICATE = Certificate(0.55, 0.9, 0.95, 60, 58, 0.91, 120)


@pytest.fixture(scope="session")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Serving:
    """Base and two rounds of a run; the second knows more."""
    folder = tmp_path_factory.mktemp("adapters")
    for number, num in enumerate((5, 500)):
        finetune([{"id": str(i), "answer": "plant"} for i in range(num)], str(folder / str(number)))
    adapters = {f"things-round-{n}": str(folder / str(n)) for n in (0, 1)}
    spec = EngineSpec("scripted", "m", "m", None, adapters, "float32", CONTEXT, 4, 0, 1, False, TASK.format)
    models: dict[str, str | None] = {"things-base": None, **{name: name for name in adapters}}
    labelling = Labelling("things-round-1", Alone(Sampling(0.0, 32), "things-round-1", "mean_nll"), CERTIFICATE)
    return Serving(spec, models, labelling, TASK, "2024-07-26", key_digest(KEY))


def slow(serving: Serving, seconds: float, seats: int) -> Serving:
    """The same with an engine that takes so long for an answer and gives so many at a time."""
    speed = {"seconds_per_request": seconds, "seconds_sigma": 1e-9, "max_num_seqs": seats}
    return replace(serving, spec=replace(serving.spec, speed=speed))


@contextmanager
def listening(serving: Serving) -> Iterator[str]:
    """The application behind uvicorn in a thread; its address up to /v1."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server: list[uvicorn.Server] = []

    async def serve() -> None:
        application = await build(serving)
        server.append(uvicorn.Server(uvicorn.Config(application.app, port=port, log_level="error")))
        await server[0].serve()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not (server and server[0].started) and time.monotonic() < until:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server[0].should_exit = True
        thread.join(10)


@pytest.fixture(scope="session")
def url(serving: Serving) -> Iterator[str]:
    with listening(serving) as address:
        yield address


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
