"""What a row costs its worker: processor time of one part's drafts and justification, the engine's own share apart.

Invariant: the part is answered by the code that actors run, in this process and without Ray, so that nothing else
is in the figure.
"""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.scale_data import pool_rows
from benchmarks.scale_select import TASK
from semievol_ray import schema
from semievol_ray.core.identity import row_id
from semievol_ray.engines.base import Completion, EngineSpec, Request, Sampling, ScoreRequest, Tokenizer
from semievol_ray.engines.scripted import ByteTokenizer, ScriptedGenerator
from semievol_ray.errors import ModelError
from semievol_ray.runs import Run, Step
from semievol_ray.stages.answering import Asker, Load
from semievol_ray.stages.draft import DraftJob, draft_part
from semievol_ray.stages.justify import JustifyJob, justify_part

DATE = "2024-07-26"
DEMONSTRATIONS = (0, 1, 2, 3)


class Timed:
    """Processor seconds spent in calls, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def call(self, name: str, function: Any, *args: Any, **kwargs: Any) -> Any:
        began = time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.thread_time() - began


class TimedTokenizer:
    """A tokenizer whose encoding and decoding are timed; its template is rendering and is not."""

    def __init__(self, tokenizer: Tokenizer, timed: Timed) -> None:
        self._tokenizer, self._timed = tokenizer, timed
        self.eos_token_id = tokenizer.eos_token_id

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
        return self._tokenizer.apply_chat_template(*args, **kwargs)

    def encode(self, *args: Any, **kwargs: Any) -> list[int]:
        found: list[int] = self._timed.call("tokenise", self._tokenizer.encode, *args, **kwargs)
        return found

    def decode(self, *args: Any, **kwargs: Any) -> str:
        return str(self._timed.call("tokenise", self._tokenizer.decode, *args, **kwargs))


class TimedEngine:
    """The scripted engine, which is no part of a row's cost, behind a tokenizer that may be a real model's."""

    def __init__(self, spec: EngineSpec, tokenizer: Tokenizer, timed: Timed) -> None:
        self.tokenizer: Tokenizer = TimedTokenizer(tokenizer, timed)
        self._plain, self._timed, self._bytes = tokenizer, timed, ByteTokenizer()
        self._scripted = ScriptedGenerator(spec)
        self.max_num_seqs = self._scripted.max_num_seqs

    async def generate(self, request: Request) -> Completion:
        await asyncio.sleep(0)  # where an engine would work, other rows go on
        made: Completion = self._timed.call("engine", self._answer, request)
        return made

    def _answer(self, request: Request) -> Completion:
        made = _driven(self._scripted.generate(self._as_bytes(request)))
        return made if isinstance(self._plain, ByteTokenizer) else self._retokenised(made)

    def _as_bytes(self, request: Request) -> Request:
        if isinstance(self._plain, ByteTokenizer):
            return request
        text = self._plain.decode(request.prompt_ids)
        return replace(request, prompt_ids=tuple(self._bytes.encode(text)))

    def _retokenised(self, made: Completion) -> Completion:
        ids = tuple(self._plain.encode(made.text, add_special_tokens=False))
        return replace(made, token_ids=ids, token_logprobs=made.token_logprobs[:1] * len(ids))

    async def score(self, request: ScoreRequest) -> tuple[float, ...]:
        return await self._scripted.score(request)

    def close(self) -> None:
        return None


def _driven(answer: Coroutine[Any, Any, Completion]) -> Completion:
    """The result of a coroutine that waits for nothing, in one go."""
    try:
        while True:
            answer.send(None)
    except StopIteration as done:
        made: Completion = done.value
        return made


def milliseconds_a_row(folder: str, num_rows: int, tokenizer: Tokenizer | None = None) -> dict[str, float]:
    """Processor ms a row of four drafts and a justification, files included: `pipeline`, `tokenise`, `engine`.

    The drafts see 0 to 3 demonstrations. Without `tokenizer` the scripted engine's bytes are tokens.
    """
    timed = Timed()
    spec = EngineSpec(
        kind="scripted", model="scripted", model_path="scripted", merged=None, adapters={}, dtype="float32",
        max_model_len=4096, max_lora_rank=8, seed=0, num_threads=1, on_gpu=False, answer_format=TASK.format,
    )  # fmt: skip
    engine = TimedEngine(spec, tokenizer or ByteTokenizer(), timed)
    with Run.open(f"{folder}/run", {}) as run:
        pool, shown, nearest = _inputs(run, num_rows)
        began = time.process_time()
        asyncio.run(_answer(run, pool, shown, nearest, Asker(engine, TASK, 4096, DATE, Load(), [])))
        total = time.process_time() - began
    own = {name: 1000 * timed.seconds.get(name, 0.0) / num_rows for name in ("tokenise", "engine")}
    return {"pipeline": 1000 * total / num_rows - sum(own.values()), **own}


async def _answer(run: Run, pool: Step, shown: Step, nearest: Step, asker: Asker) -> None:
    part, sampling, drafts = pool.parts[0], Sampling(1.0, 16), []
    for k in DEMONSTRATIONS:
        step = run.step(f"drafts/{k}", settings={}, inputs={}, parts=pool.parts)
        draft = DraftJob(step, pool, shown, nearest if k else None, k, sampling, None)
        step.commit_part(part, await draft_part(draft, part, asker))
        drafts.append(step)
    step = run.step("justify", settings={}, inputs={}, parts=pool.parts)
    job = JustifyJob(step, pool, tuple(drafts), Sampling(0.0, 16), None, "mean_nll")
    step.commit_part(part, await justify_part(job, part, asker))


def _inputs(run: Run, num_rows: int) -> tuple[Step, Step, Step]:
    """One part of a pool, the examples that may be shown, and three of them for each row."""
    rows = [{"id": row_id(TASK.name, q, None), "question": q, "num_copies": 1} for q, _ in pool_rows(num_rows)]
    labeled = list(pool_rows(64, "labeled"))
    examples = [
        {"id": f"l{i}", "question": q, "answer": a, "source": "gold", "weight": 1.0, "round": 0}
        for i, (q, a) in enumerate(labeled)
    ]
    three = [
        {"id": row["id"], "demonstration_ids": [f"l{(i + k) % 64}" for k in range(3)], "scores": [0.9, 0.8, 0.7],
         "sources": ["gold"] * 3}
        for i, row in enumerate(rows)
    ]  # fmt: skip
    return (
        _step(run, "pool", rows, schema.UNLABELED),
        _step(run, "shown", examples, schema.EXAMPLES),
        _step(run, "retrieve", three, schema.DEMONSTRATIONS),
    )


def _step(run: Run, name: str, rows: Sequence[dict[str, Any]], columns: pa.Schema) -> Step:
    step = run.step(name, settings={}, inputs={}, parts=["part-00000"])
    full = [dict.fromkeys(columns.names) | row for row in rows]
    step.commit_part("part-00000", pa.Table.from_pylist(full, schema=columns))
    return step


def cached_tokenizer() -> Tokenizer | None:
    """The tokenizer of a real model that lies in this user's cache; None where there is none."""
    from semievol_ray.engines.rendering import load_tokenizer

    cache = Path.home() / ".cache" / "semievol_ray"
    found = sorted(path.parent for path in cache.rglob("tokenizer.json")) if cache.exists() else []
    for folder in found:
        with suppress(ModelError):  # an embedder's has no chat template
            return load_tokenizer(str(folder))
    return None
