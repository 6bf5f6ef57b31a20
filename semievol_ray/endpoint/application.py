"""The application of one replica: the gate, /v1/label, and the chat API of vLLM's own server or of ours.

Invariant: one engine, opened here, answers all of it.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from semievol_ray.endpoint import chat, labelling
from semievol_ray.endpoint.gate import App, Gate, Receive, Scope, Send
from semievol_ray.endpoint.models import Serving
from semievol_ray.endpoint.replies import RefusedError, refusal
from semievol_ray.engines.base import Generator
from semievol_ray.engines.opening import open_generator
from semievol_ray.errors import EngineDiedError
from semievol_ray.stages.answering import Load

Health = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Application:
    """What answers HTTP requests, and what raises when its engine is gone."""

    app: App
    check_health: Health
    close: Callable[[], None]


async def build(serving: Serving) -> Application:
    """Open the engine and the application over it; takes as long as the engine's start."""
    engine = open_generator(serving.spec)
    replica = Replica(serving, engine)
    if serving.spec.kind == "vllm":
        from semievol_ray.engines.vllmserver import openai_app

        replica.inner = await openai_app(engine, serving.models)
    return Application(Gate(replica, serving.key), replica.check_health, engine.close)


class Replica:
    """Routes requests to one engine; `inner` answers all but /v1/label, ours where it is None."""

    def __init__(self, serving: Serving, engine: Generator) -> None:
        self._serving, self._engine, self._load = serving, engine, Load()
        self._died: EngineDiedError | None = None
        self.inner: App | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (self.inner is None or scope["path"] == "/v1/label"):
            reply = await self._reply(HttpRequest(scope, receive))
            await reply(scope, receive, send)
        elif self.inner is not None:
            await self.inner(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _live(receive, send)

    async def check_health(self) -> None:
        """Raises EngineDiedError once the engine was found gone, so that another replica is started."""
        if self._died is not None:
            raise self._died
        check = getattr(self._engine, "check_health", None)
        if check is not None:
            await check()

    async def _reply(self, http: HttpRequest) -> Response:
        try:
            return await self._routed(http)
        except RefusedError as error:
            return refusal(error.status, str(error), error.code)
        except EngineDiedError as error:
            self._died = error
            return refusal(503, "the engine of this replica died; it is started again: ask again")

    async def _routed(self, http: HttpRequest) -> Response:
        match http.method, http.url.path.rstrip("/"):
            case "GET", "/health" | "/ping":
                await self.check_health()
                return Response(status_code=200)
            case "GET", "/v1/models":
                return await chat.models(self._serving)
            case "POST", "/v1/chat/completions":
                return await chat.chat_completions(self._serving, self._engine, http)
            case "POST", "/v1/label":
                return await labelling.label(self._serving, self._engine, self._load, http)
        raise RefusedError(
            404, f"{http.method} {http.url.path} is not served: /v1/models, /v1/chat/completions and /v1/label are"
        )


async def _live(receive: Receive, send: Send) -> None:
    """ASGI's lifespan: nothing to do at either end."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
