"""Small real steps in a run directory, and an engine whose answers a test writes itself."""

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pytest

from semievol_ray import configfile, schema
from semievol_ray.core.answers import Labels
from semievol_ray.engines.base import Completion, Request, RequestFailedError, ScoreRequest, Tokenizer
from semievol_ray.engines.scripted import ByteTokenizer
from semievol_ray.placement import Node, Resources
from semievol_ray.progress import Progress
from semievol_ray.runs import Run, Step
from semievol_ray.stages.answering import Asker, Load
from semievol_ray.stages.context import Context
from semievol_ray.tasks import Task

TASK = Task("kinds", "Say what it is.", Labels(("plant", "animal", "food")), max_tokens=16)
Row = dict[str, Any]
Reply = Callable[[str], str | tuple[str, str] | RequestFailedError]


class FakeEngine:
    """Answers a prompt with what `reply` returns for its text: a completion's text, or (text, finish_reason).

    Token i of an answer has log-probability -(i + 1) / 8, so that every span has a mean of its own; in a score,
    -(i + 1) / 4. An engine without a tokenizer answers messages as an endpoint does, one token a word. A reply that is
    an exception is raised.
    """

    def __init__(self, reply: Reply, tokenizer: Tokenizer | None = None) -> None:
        self.tokenizer = tokenizer
        self.max_num_seqs = 8
        self.requests: list[Request] = []
        self.scored: list[ScoreRequest] = []
        self.prompts: list[str] = []
        self._reply = reply

    async def generate(self, request: Request) -> Completion:
        prompt = "".join(m.content for m in request.messages)
        if self.tokenizer is not None:
            prompt = self.tokenizer.decode(request.prompt_ids)
        self.requests.append(request)
        self.prompts.append(prompt)
        # later requests answer first, so that an order of arrival would show
        await asyncio.sleep(0.02 / len(self.requests))
        reply = self._reply(prompt)
        if isinstance(reply, RequestFailedError):
            raise reply
        text, finish = reply if isinstance(reply, tuple) else (reply, "stop")
        made = self._completion(text, "length" if finish == "length" else "stop")
        return replace(made, token_logprobs=()) if request.sampling.choices else made

    def _completion(self, text: str, finish: Literal["stop", "length"]) -> Completion:
        words = tuple(re.findall(r"\s*\S+", text))
        ids = tuple(self.tokenizer.encode(text)) if self.tokenizer else ()
        logprobs = tuple(-(i + 1) / 8 for i in range(len(ids if self.tokenizer else words)))
        if self.tokenizer:
            return Completion(text, ids, logprobs, finish)
        return Completion(text, (), logprobs, finish, token_texts=words, num_prompt_tokens=77, num_tokens=5)

    async def score(self, request: ScoreRequest) -> tuple[float, ...]:
        self.scored.append(request)
        await asyncio.sleep(0.02 / len(self.scored))
        return tuple(-(i + 1) / 4 for i in range(len(request.answer_ids)))

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
def context_of(run: Run, tmp_path: Path) -> Iterator[Callable[..., Context]]:
    """context_of(method={...}, ...) -> a run's context with that configuration, of the scripted engine, without Ray."""
    with ExitStack() as closing:

        def make(said: StringIO | None = None, held: Run = run, **changes: Any) -> Context:
            labels = {"kind": "labels", "labels": ["plant", "animal", "food"]}
            tree = {
                "name": "small",
                "task": {"name": "kinds", "instruction": "Say what it is.", **labels},
                "data": {"labeled": f"{tmp_path}/labeled.csv", "unlabeled": f"{tmp_path}/unlabeled.csv"},
                "model": "scripted",
                "numerics": {"engine": "scripted"},
                "report_to": [],
                **changes,
            }
            config = configfile.parse(tree, "test")
            context = Context(held, config, Progress(said, quiet=said is None), closing)
            context.resources = Resources((Node(2, 0),))
            return context

        yield make


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
def shown(step_of: Callable[..., Step], labeled: Step) -> Step:
    """EXAMPLES of the labeled rows: what a round may show."""
    rows = [row for part in labeled.parts for row in labeled.read_part(part, schema.LABELED).to_pylist()]
    gold = [{**row, "source": "gold", "weight": 1.0, "round": 0} for row in rows]
    return step_of("rounds/0000/examples", schema.EXAMPLES, gold)


@pytest.fixture
def asking() -> Callable[..., tuple[FakeEngine, Asker]]:
    """asking(reply, max_model_len=..., endpoint=...) -> a fake engine and the asker in front of it."""

    def make(
        reply: Reply, max_model_len: int = 2000, of: Task = TASK, *, endpoint: bool = False
    ) -> tuple[FakeEngine, Asker]:
        engine = FakeEngine(reply, None if endpoint else ByteTokenizer())
        return engine, Asker(engine, of, max_model_len, "2024-07-26", Load(), [])

    return make
