"""vLLM's engine inside this process, stepped by a thread, for CPUs: one start of Python and its imports less.

Invariant: only that thread touches the engine; callers wait for futures of their own event loop.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any

from semievol_ray.engines.enginestats import stat_loggers
from semievol_ray.engines.prefixes import Add, ignored
from semievol_ray.errors import EngineDiedError


@dataclass(frozen=True)
class _Arrived:
    request_id: str
    prompt: Any
    params: Any
    lora: Any
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]


class InProcessEngine:
    """Answers as AsyncLLM does, of which it has `generate` and `shutdown`; `make` gives vLLM's LLMEngine.

    An engine core in a process of its own keeps a GPU busy while Python renders; on a CPU it costs a second import of
    everything, and two processes that fight for the same cores.
    """

    def __init__(
        self,
        arguments: Mapping[str, Any],
        make: Callable[[dict[str, Any]], Any] | None = None,
        beat: Callable[[], None] = lambda: None,
        on_prefixes: Add = ignored,
    ) -> None:
        self._make, self._beat = make or partial(_engine, on_prefixes=on_prefixes), beat
        self._arrived: SimpleQueue[_Arrived | None] = SimpleQueue()
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(dict(arguments), started), name="vllm", daemon=True)
        self._thread.start()
        started.result()

    async def generate(self, prompt: Any, params: Any, request_id: str, lora_request: Any = None) -> AsyncIterator[Any]:
        """The one, final output. Raises EngineDiedError when a step of the engine failed."""
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        self._arrived.put(_Arrived(request_id, prompt, params, lora_request, loop, answer))
        yield await answer

    def shutdown(self) -> None:
        """End the thread after the step it is in; requests under way are never answered."""
        self._arrived.put(None)
        self._thread.join()

    def _run(self, arguments: dict[str, Any], started: Future[None]) -> None:
        try:
            engine = self._make(arguments)
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(None)
        waiting: dict[str, _Arrived] = {}
        while self._take(engine, waiting):
            try:
                outputs = engine.step()
            except Exception as error:
                self._die(error, waiting)
                return
            self._beat()
            for output in outputs:
                if output.finished:
                    _answer(waiting.pop(output.request_id), output, None)

    def _take(self, engine: Any, waiting: dict[str, _Arrived]) -> bool:
        """Hand what has arrived to the engine, waiting for something while it has nothing to do; False at the end."""
        while not waiting or not self._arrived.empty():
            item = self._arrived.get()
            if item is None:
                return False
            try:
                engine.add_request(item.request_id, item.prompt, item.params, lora_request=item.lora)
            except Exception as error:  # a request that the engine refuses is its caller's to hear of
                _answer(item, None, error)
            else:
                waiting[item.request_id] = item
        return True

    def _die(self, error: Exception, waiting: Mapping[str, _Arrived]) -> None:
        """Tell every caller, and those still to come, that the engine is gone."""
        dead = EngineDiedError(f"the vLLM engine died: {type(error).__name__}: {error}")
        dead.__cause__ = error
        for item in waiting.values():
            _answer(item, None, dead)
        while (late := self._arrived.get()) is not None:
            _answer(late, None, dead)


def _engine(arguments: dict[str, Any], on_prefixes: Add) -> Any:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    loggers = stat_loggers(on_prefixes)
    return LLMEngine.from_engine_args(EngineArgs(**arguments), stat_loggers=loggers, enable_multiprocessing=False)


def _answer(item: _Arrived, output: Any, error: BaseException | None) -> None:
    """Set a caller's future in its own loop; one that was cancelled meanwhile, or whose loop ended, is left alone."""

    def settle() -> None:
        if not item.answer.done():
            if error is None:
                item.answer.set_result(output)
            else:
                item.answer.set_exception(error)

    try:
        item.loop.call_soon_threadsafe(settle)
    except RuntimeError:  # the loop is closed
        return
