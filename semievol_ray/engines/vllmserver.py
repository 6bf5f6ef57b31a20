"""vLLM's own OpenAI application over an engine that is open already, within this process.

Invariant: adapters are registered in the engine's own order, so that a name means the same slot whoever asks for it:
one adapter never fills two slots (on the CPU one has to stay empty, see engines/vllm.py).
"""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from semievol_ray.engines.base import Generator
from semievol_ray.engines.vllm import VllmGenerator


async def openai_app(engine: Generator, models: Mapping[str, str | None]) -> Any:
    """The ASGI application that `vllm serve` runs; `models` maps served names to adapters, None to the weights."""
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.entrypoints.openai.models.protocol import LoRAModulePath
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    assert isinstance(engine, VllmGenerator)
    parser: Any = FlexibleArgumentParser  # untyped in vllm
    args = make_arg_parser(parser()).parse_args([])
    by_adapter = {adapter: name for name, adapter in models.items()}
    args.model = engine.client.model_config.model
    args.served_model_name = [name for name, adapter in models.items() if adapter is None]
    args.lora_modules = [LoRAModulePath(by_adapter[name], path) for name, path in engine.adapters.items()] or None
    args.generation_config, args.disable_fastapi_docs, args.enable_log_requests = "vllm", True, False
    tasks = await engine.client.get_supported_tasks()
    app = build_app(args, tasks, engine.client.model_config)
    await init_app_state(engine.client, app.state, args, tasks)
    return without_server(app)


def without_server(app: Any) -> Any:
    """An application whose server is not vLLM's: when the engine has died, vLLM's reply wants to stop its own."""
    app.state.server = SimpleNamespace(should_exit=False)
    return app
