"""Real vLLM on a random Llama: adapters and their prefix cache, an engine of two workers, replicas and their draws."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus import scraped

from semievol_ray import schema
from semievol_ray.core.answers import Labels
from semievol_ray.engines.base import (
    Completion,
    EngineSpec,
    Generator,
    Request,
    RequestFailedError,
    Sampling,
    ScoreRequest,
)
from semievol_ray.engines.opening import open_generator
from semievol_ray.engines.prefixes import Prefixes
from semievol_ray.engines.scripted import ByteTokenizer
from semievol_ray.engines.transformers import TransformersGenerator
from semievol_ray.engines.vllm import VllmGenerator, completion_of, engine_arguments
from semievol_ray.errors import EngineDiedError
from semievol_ray.placement import Replicas
from semievol_ray.runs import Run, Step
from semievol_ray.stages.draft import DraftJob
from semievol_ray.stages.jobs import PartReport, Session
from semievol_ray.stages.patience import Patience
from semievol_ray.stages.session import run_session
from semievol_ray.stages.supervision import Heard
from semievol_ray.tasks import Task

TASK = Task("kinds", "Say what it is.", Labels(("plant", "animal", "food")), max_tokens=8)
GREEDY = Sampling(0.0, 8)
PROMPT = tuple(range(10, 110))
QUESTIONS = [f"a green thing number {i} that grows in the garden" for i in range(4)]
BLOCK = 32
DASHBOARD = Path(__file__).parents[2] / "cluster/monitoring/grafana/semievol.json"


@pytest.fixture(scope="module")
def llama(build_tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With heads of 32 dimensions, the fewest that vLLM has kernels for; four of them, and two of keys."""
    return build_tiny(tmp_path_factory.mktemp("vllm"), hidden=128)


@pytest.fixture
def spec(llama: Path) -> EngineSpec:
    return EngineSpec(
        "vllm", "tiny", str(llama), None, {}, "float32", 256, 4, 3, 1, False, TASK.format, {}, {"max_num_seqs": 4}
    )


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with Run.open(str(tmp_path / "run"), {}) as held:
        yield held


def answered(engine: Generator, *requests: Request, within: asyncio.Runner | None = None) -> list[Completion]:
    """`within`: an engine that is a process of its own lives as long as the loop that asked it first."""

    async def ask() -> list[Completion]:
        return [await engine.generate(request) for request in requests]

    return within.run(ask()) if within else asyncio.run(ask())


def drafts(run: Run, spec: EngineSpec, parts: list[list[str]], sampling: Sampling, replicas: Replicas) -> list[str]:
    """Texts of a real session's drafts of rows with these questions."""
    names = [f"part-{i:05d}" for i in range(len(parts))]
    pool = run.step("data/unlabeled", settings={}, inputs={}, parts=names)
    for name, questions in zip(names, parts, strict=True):
        rows = [dict.fromkeys(schema.UNLABELED.names) | {"id": f"{name}{q}", "question": q} for q in questions]
        pool.commit_part(name, table(rows))
    step = run.step("rounds/0001/drafts/base", settings={}, inputs={}, parts=names)
    job = DraftJob(step, pool, pool, None, 0, sampling, None)
    session = Session("base", spec, TASK, "2024-07-26", (job,), len(parts[0]))
    reports: list[PartReport] = []
    heard = Heard(lambda _: None, lambda *_, **__: None)
    run_session(session, replicas, reports.append, lambda _: None, heard, Patience())
    assert sum(report.num_looked_up for report in reports) > 0
    return texts(step)


def table(rows: list[dict[str, Any]]) -> Any:
    import pyarrow as pa

    return pa.Table.from_pylist([{**row, "num_copies": 1} for row in rows], schema=schema.UNLABELED)


def texts(step: Step) -> list[str]:
    return [row["text"] for part in step.parts for row in step.read_part(part, schema.DRAFTS).to_pylist()]


def test_engine_of_two_workers_is_left_to_choose_what_runs_them(spec: EngineSpec) -> None:
    two = replace(spec, speed={"tensor_parallel_size": 2})
    assert engine_arguments(spec)["distributed_executor_backend"] == "uni"
    assert "distributed_executor_backend" not in engine_arguments(two)


@dataclass(frozen=True)
class Output:
    """What vLLM gives for one answer of the byte tokenizer; token i has log-probability -(i + 1)."""

    text: str
    said: str
    stop_reason: str | int | None
    finish_reason: str = "stop"

    @property
    def token_ids(self) -> list[int]:
        return ByteTokenizer().encode(self.said)

    @property
    def logprobs(self) -> list[dict[int, SimpleNamespace]]:
        return [{token: SimpleNamespace(logprob=-float(i + 1))} for i, token in enumerate(self.token_ids)]


@pytest.mark.parametrize(
    ("output", "kept"),
    [
        (Output("food", "food\x00", 256), 4),
        (Output("food", "food\n\n", "\n\n"), 4),
        (Output("food", "food", None, "length"), 4),
        (Output("", "\n\n", "\n\n"), 0),
    ],
    ids=["end of turn", "stop string", "cut off", "stop string at once"],
)
def test_what_stopped_an_answer_is_no_part_of_it(output: Output, kept: int) -> None:
    found = completion_of(output, Sampling(1.0, 8), ByteTokenizer())
    assert (found.text, found.token_ids) == (output.text, tuple(b"food"[:kept]))
    assert found.token_logprobs == tuple(-float(i + 1) for i in range(kept))
    assert found.finish_reason == output.finish_reason
    assert completion_of(output, Sampling(1.0, 8, choices=("food",)), ByteTokenizer()).token_logprobs == ()


class Failing:
    """A vLLM engine whose every request ends in `error`; `errored` is what it says of itself then."""

    def __init__(self, error: Exception, *, errored: bool) -> None:
        self._error, self.errored = error, errored

    async def generate(self, *_: object, **__: object) -> AsyncIterator[Output]:
        if self._error:
            raise self._error
        yield Output("", "", None)


def generate_error() -> Exception:
    from vllm.v1.engine.exceptions import EngineGenerateError

    error = EngineGenerateError()
    error.__cause__ = KeyError("slot 3")
    return error


def validation_error() -> Exception:
    from vllm.exceptions import VLLMValidationError

    return VLLMValidationError("the prompt is too long", parameter="prompt")


@pytest.mark.parametrize(
    ("error", "errored", "kind", "told"),
    [
        (generate_error, True, EngineDiedError, "KeyError: 'slot 3'"),
        (generate_error, False, RequestFailedError, "EngineGenerateError"),
        (validation_error, False, RequestFailedError, "the prompt is too long"),
    ],
)
def test_failure_is_the_engines_end_where_it_says_so_and_else_the_rows(
    spec: EngineSpec,
    monkeypatch: pytest.MonkeyPatch,
    error: Callable[[], Exception],
    errored: bool,
    kind: type[Exception],
    told: str,
) -> None:
    monkeypatch.setattr("semievol_ray.engines.vllm._engine", lambda *_: Failing(error(), errored=errored))
    engine = VllmGenerator(replace(spec, on_gpu=True))
    with pytest.raises(kind, match=told):
        answered(engine, Request(PROMPT, GREEDY))


CANDIDATES = [(30, 31, 40, 5), (30, 31, 41, 5), (30, 31, 42, 43, 5), (30, 31, 40, 5)]


class Telling:
    """A vLLM engine that tells of each token asked for a log-probability of its own behind what came before it."""

    errored = False

    def __init__(self, speculates: bool) -> None:
        self._most = 1 if speculates else None
        self.asked: list[tuple[tuple[int, ...], int]] = []

    async def generate(self, prompt: Any, params: Any, *_: object, **__: object) -> AsyncIterator[Any]:
        ids, tokens = tuple(prompt["prompt_token_ids"]), params.logprob_token_ids or params.allowed_token_ids
        self.asked.append((ids, len(tokens)))
        told = {
            token: SimpleNamespace(logprob=-float(sum(ids[len(PROMPT) :]) + token)) for token in tokens[: self._most]
        }
        yield SimpleNamespace(outputs=[SimpleNamespace(logprobs=[told])])


@pytest.mark.parametrize(
    ("tells", "speculates", "num"), [(True, False, 7), (False, False, 9), (True, True, 9)], ids=str
)
def test_scores_of_a_prompt_are_asked_once_for_each_beginning_that_they_share(
    spec: EngineSpec, monkeypatch: pytest.MonkeyPatch, tells: bool, speculates: bool, num: int
) -> None:
    inner = Telling(speculates)
    monkeypatch.setattr("semievol_ray.engines.vllm._engine", lambda *_: inner)
    monkeypatch.setattr("semievol_ray.engines.vllm._tells_of_tokens", lambda: tells)
    engine = VllmGenerator(replace(spec, on_gpu=True))
    scores = scored(engine, [ScoreRequest(PROMPT, answer) for answer in CANDIDATES])
    for answer, found in zip(CANDIDATES, scores, strict=True):
        assert found == tuple(-float(sum(answer[: i + 1])) for i in range(len(answer)))
    assert len(inner.asked) == num  # seven beginnings, three tokens behind one of them
    assert len({ids for ids, _ in inner.asked}) == 7


def scored(engine: Generator, requests: list[ScoreRequest], *others: Request) -> list[tuple[float, ...]]:
    """The scores, while the engine answers other requests."""

    async def ask() -> list[Any]:
        answers = [engine.generate(request) for request in others]
        return list(await asyncio.gather(*map(engine.score, requests), *answers))

    return asyncio.run(ask())[: len(requests)]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_scores_of_answers_that_share_their_beginning_are_those_of_transformers(spec: EngineSpec) -> None:
    prompts = [PROMPT, PROMPT[:40]]
    requests = [ScoreRequest(prompt, answer) for prompt in prompts for answer in CANDIDATES]
    others = [Request(prompt, Sampling(1.0, 8)) for prompt in prompts]
    with closing(open_generator(spec)) as engine:
        found = scored(engine, requests, *others)
    for mine, theirs in zip(found, scored(TransformersGenerator(spec), requests), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_new_adapter_meets_nothing_of_another_in_the_prefix_cache_and_stops_where_it_is_told(
    spec: EngineSpec, llama: Path, build_lora: Callable[..., Path], tmp_path: Path
) -> None:
    folders = {
        name: str(build_lora(llama, tmp_path / name, seed)) for seed, name in enumerate(("r-0001-aa", "r-0002-bb"))
    }
    prefixes, adapted = Prefixes(), replace(spec, adapters=folders, core="process")
    engine = open_generator(adapted, on_prefixes=prefixes.add)
    with asyncio.Runner() as runner, closing(engine):
        found, completions = [], []
        for name in ("r-0001-aa", "r-0001-aa", "r-0002-bb"):
            completions += answered(engine, Request(PROMPT, GREEDY, name), within=runner)
            found.append(prefixes.taken())
        check_stop(engine, completions[0], runner)
    assert found == [(len(PROMPT), 0), (len(PROMPT), len(PROMPT) // BLOCK * BLOCK), (len(PROMPT), 0)]
    oracle = TransformersGenerator(replace(adapted, kind="transformers"))
    plain = answered(oracle, *(Request(PROMPT, GREEDY, name) for name in folders))
    assert [c.token_ids for c in completions[1:]] == [c.token_ids for c in plain]
    assert completions[2].token_ids != completions[1].token_ids


def check_stop(engine: Generator, whole: Completion, runner: asyncio.Runner) -> None:
    """A stop string cuts what would have been said, and what it cut off has no log-probability."""
    stop = whole.text[len(whole.text) // 2 :][:1]
    (cut,) = answered(engine, Request(PROMPT, replace(GREEDY, stop=(stop,)), "r-0001-aa"), within=runner)
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.token_ids == whole.token_ids[: len(cut.token_ids)]
    assert (len(cut.token_logprobs), cut.finish_reason) == (len(cut.token_ids), "stop")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("small_ray")
def test_engine_of_two_tensor_parallel_workers_in_a_pool_answers_as_one_does(run: Run, spec: EngineSpec) -> None:
    two = replace(spec, speed={"max_num_seqs": 4, "tensor_parallel_size": 2})
    found = drafts(run, two, [QUESTIONS[:2], QUESTIONS[2:]], GREEDY, Replicas(1, 2, 0, 1))
    assert len(set(found)) > 1
    assert found == drafts_of_one(replace(spec, kind="transformers"))


def drafts_of_one(spec: EngineSpec) -> list[str]:
    from semievol_ray.core.prompts import question_messages
    from semievol_ray.engines.rendering import prompt_ids

    oracle = TransformersGenerator(spec)
    asked = [question_messages(TASK.instruction, q, ()) for q in QUESTIONS]
    ids = [tuple(prompt_ids(oracle.tokenizer, messages, "2024-07-26")) for messages in asked]
    return [c.text for c in answered(oracle, *(Request(i, GREEDY) for i in ids))]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("small_ray")
def test_two_replicas_that_are_asked_the_same_draw_from_streams_of_their_own(run: Run, spec: EngineSpec) -> None:
    found = drafts(run, spec, [QUESTIONS, QUESTIONS], Sampling(1.0, 8), Replicas(2, 1, 0, 1))
    assert found[:4] != found[4:]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("small_ray")
def test_dashboard_asks_of_engines_what_their_metrics_in_ray_are_named(spec: EngineSpec) -> None:
    import ray

    @ray.remote(num_cpus=1)
    class Hosted:  # here, so that it travels by value: a worker cannot import this file
        def __init__(self) -> None:
            self._engine = open_generator(watched)

        async def ask(self) -> int:
            return sum([len((await self._engine.generate(request)).token_ids) > 0 for request in requests])

    watched, requests = replace(spec, model="watched"), [Request(PROMPT, GREEDY) for _ in range(4)]
    asked = set(re.findall(r"ray_vllm_\w+", DASHBOARD.read_text(encoding="utf-8")))
    host: Any = Hosted.remote()  # type: ignore[attr-defined]
    assert ray.get(host.ask.remote()) == 4

    # engines of other tests are told of, too; a counter that still is 0, as that of preemptions, vLLM shows of none
    names = [name for name in asked if "preemptions" not in name]
    whole = rf'ray_vllm_prefix_cache_queries_total.*"watched".* {4 * len(PROMPT)}'  # with the last of Ray's reports
    assert scraped([*(rf'{name}\{{.*model_name="watched"' for name in names), whole])
