"""vLLM's own application where no server of vLLM's runs it."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from semievol_ray.engines.vllmserver import without_server


@pytest.mark.slow
def test_client_of_an_engine_that_died_is_told_so_and_not_of_an_attribute() -> None:
    import httpx
    from fastapi import FastAPI
    from vllm.entrypoints.serve.exception_handling.register import init_exception_handler
    from vllm.v1.engine.exceptions import EngineDeadError

    app = FastAPI()
    init_exception_handler(app)
    app.state.args = SimpleNamespace(log_error_stack=False)
    app.state.engine_client = SimpleNamespace(errored=True, is_running=False)

    @app.post("/v1/chat/completions")
    async def completions() -> None:
        raise EngineDeadError()

    async def asked() -> Any:
        transport = httpx.ASGITransport(without_server(app), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.post("/v1/chat/completions")

    reply = asyncio.run(asked())

    assert reply.status_code == 500
    assert "EngineCore" in reply.json()["error"]["message"]
