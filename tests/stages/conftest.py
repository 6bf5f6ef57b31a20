"""Small real steps in a run directory, and an engine whose answers a test writes itself."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from semievol_ray import schema
from semievol_ray.core.answers import Labels
from semievol_ray.engines.base import Completion, Request, Tokenizer
from semievol_ray.engines.scripted import ByteTokenizer
from semievol_ray.runs import Run, Step
from semievol_ray.stages.answering import Asker, Load
from semievol_ray.tasks import Task

TASK = Task("kinds", "Say what it is.", Labels(("plant", "animal", "food")), max_tokens=16)
Reply = Callable[[str], str | tuple[str, str]]


class FakeEngine:
    """Answers a prompt with what `reply` returns for its text: a completion's text, or (text, finish_reason).

    Token i of an answer has log-probability -(i + 1) / 8, so that every span has a mean of its own.
    """

    def __init__(self, reply: Reply) -> None:
        self.tokenizer: Tokenizer = ByteTokenizer()
        self.max_num_seqs = 8
        self.requests: list[Request] = []
        self.prompts: list[str] = []
        self._reply = reply

    async def generate(self, request: Request) -> Completion:
        prompt = self.tokenizer.decode(request.prompt_ids)
        self.requests.append(request)
        self.prompts.append(prompt)
        # later requests answer first, so that an order of arrival would show
        await asyncio.sleep(0.02 / len(self.requests))
        reply = self._reply(prompt)
        text, finish = reply if isinstance(reply, tuple) else (reply, "stop")
        ids = tuple(self.tokenizer.encode(text))
        logprobs = tuple(-(i + 1) / 8 for i in range(len(ids)))
        return Completion(text, ids, logprobs, "length" if finish == "length" else "stop")

    def close(self) -> None:
        return None


@pytest.fixture(scope="session")
def task() -> Task:
    return TASK


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with Run.open(str(tmp_path / "run"), {}) as held:
        yield held


@pytest.fixture
def step_of(run: Run) -> Callable[..., Step]:
    """step_of(name, schema, rows of part 0, rows of part 1, ...) -> a committed step."""

    def make(name: str, columns: pa.Schema, *parts: Sequence[Mapping[str, Any]]) -> Step:
        step = run.step(name, settings={}, inputs={}, parts=[f"part-{i:05d}" for i in range(len(parts))])
        for part, rows in zip(step.parts, parts, strict=True):
            full = [dict.fromkeys(columns.names) | dict(row) for row in rows]
            step.commit_part(part, pa.Table.from_pylist(full, schema=columns))
        run.commit(step, {})
        return step

    return make


@pytest.fixture
def begun(run: Run) -> Callable[..., Step]:
    """begun(name, parts) -> a step with nothing in it yet."""
    return lambda name, parts: run.step(name, settings={}, inputs={}, parts=parts)


@pytest.fixture
def pool(step_of: Callable[..., Step]) -> Step:
    """Two parts of unlabeled rows: r0 r1 r2, r3 r4."""
    rows = [{"id": f"r{i}", "question": f"thing number {i}", "num_copies": 1} for i in range(5)]
    return step_of("data/unlabeled", schema.UNLABELED, rows[:3], rows[3:])


@pytest.fixture
def labeled(step_of: Callable[..., Step]) -> Step:
    words = ["plant", "animal", "food", "plant"]
    rows = [{"id": f"l{i}", "question": f"labeled thing {i}", "answer": word} for i, word in enumerate(words)]
    return step_of("data/labeled", schema.LABELED, rows)


@pytest.fixture
def asking() -> Callable[..., tuple[FakeEngine, Asker]]:
    """asking(reply, max_model_len=...) -> a fake engine and the asker in front of it."""

    def make(reply: Reply, max_model_len: int = 2000, of: Task = TASK) -> tuple[FakeEngine, Asker]:
        engine = FakeEngine(reply)
        return engine, Asker(engine, of, max_model_len, "2024-07-26", Load(), [])

    return make
