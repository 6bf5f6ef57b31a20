"""The engine in a thread, with a fake of vLLM's LLMEngine in it: who gets which answer, and who hears of a failure."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from vllm.exceptions import VLLMValidationError

from semievol_ray.engines.inprocess import InProcessEngine
from semievol_ray.errors import EngineDiedError


@dataclass(frozen=True)
class Output:
    request_id: str
    text: str
    finished: bool


class Engine:
    """Answers every request on the second step after it came, in upper case; `die` breaks a step, `no` is refused."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        if arguments.get("broken"):
            raise ValueError("no such model")
        self.threads = {threading.get_ident()}
        self.held: dict[str, list[Any]] = {}
        self.most = 0

    def add_request(self, request_id: str, prompt: str, params: Any, lora_request: Any = None) -> None:
        if prompt == "no":
            raise VLLMValidationError("refused", parameter="prompt")
        self.held[request_id] = [0, f"{prompt}{lora_request or ''}{params}"]

    def step(self) -> list[Output]:
        self.threads.add(threading.get_ident())
        self.most = max(self.most, len(self.held))
        if any(text.startswith("die") for _, text in self.held.values()):
            raise RuntimeError("out of memory")
        for held in self.held.values():
            held[0] += 1
        done = [Output(i, text.upper(), steps == 2) for i, (steps, text) in self.held.items()]
        self.held = {i: held for i, held in self.held.items() if held[0] < 2}
        return done


@pytest.fixture
def made() -> list[Engine]:
    return []


@pytest.fixture
def engine(made: list[Engine]) -> Iterator[InProcessEngine]:
    def make(arguments: dict[str, Any]) -> Engine:
        made.append(Engine(arguments))
        return made[-1]

    running = InProcessEngine({}, make)
    yield running
    running.shutdown()


async def _ask(engine: InProcessEngine, prompt: str, number: int = 0, lora: str | None = None) -> str:
    return "".join([output.text async for output in engine.generate(prompt, "!", f"r{number}", lora_request=lora)])


def test_requests_of_one_moment_are_answered_together_each_with_its_own(
    engine: InProcessEngine, made: list[Engine]
) -> None:
    async def all_at_once() -> list[str]:
        return list(await asyncio.gather(*(_ask(engine, f"p{i}", i, "x" if i % 2 else None) for i in range(40))))

    assert asyncio.run(all_at_once()) == [f"P{i}{'X' if i % 2 else ''}!" for i in range(40)]
    assert made[0].most > 1
    assert len(made[0].threads) == 1


def test_refused_request_is_its_callers_alone(engine: InProcessEngine) -> None:
    async def mixed() -> list[Any]:
        asked = [_ask(engine, "a", 1), _ask(engine, "no", 2), _ask(engine, "b", 3)]
        return list(await asyncio.gather(*asked, return_exceptions=True))

    first, refused, last = asyncio.run(mixed())
    assert (first, last) == ("A!", "B!")
    assert isinstance(refused, VLLMValidationError)


def test_step_that_fails_is_told_to_callers_under_way_and_to_later_ones(engine: InProcessEngine) -> None:
    async def die() -> list[Any]:
        together = await asyncio.gather(_ask(engine, "die", 1), _ask(engine, "a", 2), return_exceptions=True)
        return [*together, *await asyncio.gather(_ask(engine, "later", 3), return_exceptions=True)]

    found = asyncio.run(die())
    assert isinstance(found[0], EngineDiedError)
    assert isinstance(found[2], EngineDiedError)
    assert "out of memory" in str(found[2])


def test_caller_that_gave_up_takes_nothing_from_the_others(engine: InProcessEngine) -> None:
    async def one_leaves() -> str:
        leaving = asyncio.create_task(_ask(engine, "a", 1))
        await asyncio.sleep(0)
        leaving.cancel()
        return await _ask(engine, "b", 2)

    assert asyncio.run(one_leaves()) == "B!"


def test_engine_that_cannot_start_raises_in_the_caller() -> None:
    with pytest.raises(ValueError, match="no such model"):
        InProcessEngine({"broken": True}, Engine)
