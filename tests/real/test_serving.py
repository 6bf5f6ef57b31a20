"""The adapter of a run through three doors: vLLM merged (what the run used), vLLM with LoRARequest, and plain PEFT."""

import asyncio
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from semievol_ray import schema, tasks
from semievol_ray.core.confidence import mean_nll
from semievol_ray.core.prompts import question_messages
from semievol_ray.engines.base import Completion, EngineSpec, Request, Sampling, ScoreRequest
from semievol_ray.engines.opening import open_generator
from semievol_ray.engines.rendering import answer_ids, end_of_turn_id, load_tokenizer, prompt_ids
from semievol_ray.runs import Step, read_steps

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

H_TOLERANCE = 2e-3
"""Nats per token, float32: merged weights are (W + BA)x rounded once, dynamic ones Wx + B(Ax)."""
NUM_MIXED = 20
NUM_DRAWN = 8
BATCH = 20
DATE = "2024-07-26"
TASK = tasks.builtin("wordnet")
SCORED = ["plant", "communication", "12.5% of it"]
CHOICES = ("plant", "animal", "communication")


@dataclass(frozen=True)
class Served:
    """What one vLLM engine with the adapter as LoRARequest returned."""

    spec: EngineSpec
    completions: dict[str, list[Completion]]
    scores: list[tuple[float, ...]]


def table(root: Path, name: str, columns: Any) -> list[dict[str, Any]]:
    record = dict(read_steps(str(root)))[name]
    step = Step(f"{root}/{name}", name, tuple(record["parts"]))
    return [row for part in step.parts for row in step.read_part(part, columns).to_pylist()]


@pytest.fixture(scope="module")
def prompts(finished: tuple[Path, str], smollm2: str) -> list[tuple[int, ...]]:
    tokenizer = load_tokenizer(smollm2)
    rows = table(finished[0], "data/test", schema.LABELED)
    asked = [question_messages(TASK.instruction, row["question"], ()) for row in rows]
    return [tuple(prompt_ids(tokenizer, messages, DATE)) for messages in asked]


@pytest.fixture(scope="module")
def score_requests(smollm2: str, prompts: list[tuple[int, ...]]) -> list[ScoreRequest]:
    """Three answers to a few prompts, by the base model and by the adapter in turns."""
    tokenizer = load_tokenizer(smollm2)
    answers = [tuple(answer_ids(tokenizer, text, end_of_turn_id(tokenizer, DATE))) for text in SCORED]
    return [ScoreRequest(ids, a, name) for ids in prompts[:4] for a in answers for name in (None, "evolved")]


@pytest.fixture(scope="module")
def served(
    finished: tuple[Path, str], smollm2: str, prompts: list[tuple[int, ...]], score_requests: list[ScoreRequest]
) -> Served:
    """Completions by the adapter for all prompts (`warm`), then of a mixed batch, then scores of a mixed batch."""
    spec = EngineSpec(
        kind="vllm", model="smollm2", model_path=smollm2, merged=None,
        adapters={"evolved": str(finished[0] / "rounds/0001/train/adapter")}, dtype="float32", max_model_len=512,
        max_lora_rank=16, seed=0, num_threads=2, on_gpu=False, answer_format=TASK.format, core="process",
    )  # fmt: skip
    sampling = Sampling(0.0, TASK.max_tokens)

    async def ask(engine: Any, pairs: list[tuple[tuple[int, ...], str | None]]) -> list[Completion]:
        return list(await asyncio.gather(*(engine.generate(Request(ids, sampling, name)) for ids, name in pairs)))

    async def everything() -> Served:
        engine = open_generator(spec)
        try:
            warm = await ask(engine, [(ids, "evolved") for ids in prompts])
            pairs = [(ids, name) for ids in prompts[:NUM_MIXED] for name in (None, "evolved")]
            mixed = await ask(engine, pairs)
            scores = await asyncio.gather(*map(engine.score, score_requests))
            equal = Request(prompts[0], Sampling(1.0, TASK.max_tokens))
            drawn = list(await asyncio.gather(*(engine.generate(equal) for _ in range(NUM_DRAWN))))
            held = Request(prompts[0], Sampling(1.0, TASK.max_tokens, choices=CHOICES))
            chosen = list(await asyncio.gather(*(engine.generate(held) for _ in range(NUM_DRAWN))))
        finally:
            engine.close()
        told = {"warm": warm, "mixed_base": mixed[::2], "mixed_warm": mixed[1::2], "drawn": drawn}
        told["chosen"] = chosen
        return Served(spec, told, list(scores))

    return asyncio.run(everything())


@pytest.fixture(scope="module")
def dynamic(served: Served) -> dict[str, list[Completion]]:
    return served.completions


def largest_difference(completions: list[Completion], rows: list[dict[str, Any]]) -> float:
    pairs = [
        (mean_nll(c.token_logprobs), row["mean_nll"])
        for c, row in zip(completions, rows, strict=False)
        if row["mean_nll"] is not None
    ]
    assert pairs
    return max(abs((ours or 0.0) - theirs) for ours, theirs in pairs)


def test_adapter_lora_request_answers_and_confidence_equal_merged(
    finished: tuple[Path, str], dynamic: dict[str, list[Completion]]
) -> None:
    merged = table(finished[0], "rounds/0001/evaluate", schema.PREDICTIONS)
    assert len(merged) == 200
    assert [c.text for c in dynamic["warm"]] == [row["text"] for row in merged]
    assert largest_difference(dynamic["warm"], merged) < H_TOLERANCE


def test_adapter_mixed_batch_rows_equal_separate_batches(
    finished: tuple[Path, str], dynamic: dict[str, list[Completion]]
) -> None:
    base = table(finished[0], "base/evaluate", schema.PREDICTIONS)
    assert [c.text for c in dynamic["mixed_base"]] == [row["text"] for row in base[:NUM_MIXED]]
    assert [c.text for c in dynamic["mixed_warm"]] == [c.text for c in dynamic["warm"][:NUM_MIXED]]
    assert largest_difference(dynamic["mixed_base"], base) < H_TOLERANCE


def test_answers_to_equal_questions_are_drawn_each_by_itself(dynamic: dict[str, list[Completion]]) -> None:
    drawn = dynamic["drawn"]
    assert len(drawn) == NUM_DRAWN
    assert len({c.token_ids for c in drawn}) > NUM_DRAWN // 2
    assert all(len(c.token_logprobs) == len(c.token_ids) for c in drawn)


def test_answers_that_are_held_to_choices_are_among_them_and_have_no_logprobs(
    dynamic: dict[str, list[Completion]],
) -> None:
    assert {c.text for c in dynamic["chosen"]} <= set(CHOICES)
    assert all(c.token_logprobs == () for c in dynamic["chosen"])


def test_adapter_plain_peft_answers_and_confidence_equal_vllm(
    finished: tuple[Path, str], smollm2: str, prompts: list[tuple[int, ...]], dynamic: dict[str, list[Completion]]
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(finished[0] / "rounds/0001/train/adapter")).eval()
    end = end_of_turn_id(load_tokenizer(smollm2), DATE)
    pairs = [
        (ids, c, [*c.token_ids, *([end] if c.finish_reason == "stop" else [])])
        for ids, c in zip(prompts, dynamic["warm"], strict=True)
    ]
    assert len(pairs) == 200
    for start in range(0, len(pairs), BATCH):
        batch = pairs[start : start + BATCH]
        kept = max(len(answer) for _, _, answer in batch) + 1
        for (_, completion, answer), logits_KV in zip(batch, last_logits(model, batch, kept), strict=True):
            logits_AV = logits_KV[kept - len(answer) - 1 : -1]
            assert logits_AV.argmax(-1).tolist() == answer  # greedy decoding would have given the same answer
            logprobs = torch.log_softmax(logits_AV, -1)[range(len(answer)), answer][: len(completion.token_ids)]
            ours, theirs = mean_nll(logprobs.tolist()), mean_nll(completion.token_logprobs)
            assert (ours or 0.0) == pytest.approx(theirs or 0.0, abs=H_TOLERANCE)


def test_scores_by_vllm_by_transformers_and_by_a_plain_forward_pass_are_equal(
    smollm2: str, served: Served, score_requests: list[ScoreRequest]
) -> None:
    async def score() -> list[tuple[float, ...]]:
        engine = open_generator(replace(served.spec, kind="transformers"))
        return list(await asyncio.gather(*map(engine.score, score_requests)))

    expected = plain_scores(smollm2, served.spec.adapters["evolved"], score_requests)
    for request, *three in zip(score_requests, served.scores, asyncio.run(score()), expected, strict=True):
        vllm, transformers, plain = three
        assert len(plain) == len(request.answer_ids)
        assert vllm == pytest.approx(plain, abs=H_TOLERANCE)
        assert transformers == pytest.approx(plain, abs=H_TOLERANCE)
    base, warm = served.scores[::2], served.scores[1::2]
    assert max(abs(sum(b) - sum(w)) for b, w in zip(base, warm, strict=True)) > 0.5


def plain_scores(smollm2: str, adapter: str, requests: list[ScoreRequest]) -> list[list[float]]:
    """log P of each answer token from one forward pass of the prompt and the answer together, a request at a time."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    model: Any = PeftModel.from_pretrained(base, adapter).eval()
    scores = []
    for request in requests:
        answer = list(request.answer_ids)
        ids = torch.tensor([[*request.prompt_ids, *answer]])
        with torch.inference_mode(), nullcontext() if request.adapter else model.disable_adapter():
            logits_AV = model(input_ids=ids, logits_to_keep=len(answer) + 1).logits[0, :-1]
        scores.append(torch.log_softmax(logits_AV, -1)[range(len(answer)), answer].tolist())
    return scores


def last_logits(model: Any, batch: list[tuple[tuple[int, ...], Completion, list[int]]], kept: int) -> Any:
    """Logits at the last `kept` positions of each prompt and its answer, left-padded: shape (B, kept, V)."""
    import torch

    rows = [[*ids, *answer] for ids, _, answer in batch]
    width = max(len(row) for row in rows)
    mask_BT = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    ids_BT = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
    with torch.inference_mode():
        return model(input_ids=ids_BT, attention_mask=mask_BT, position_ids=positions_BT, logits_to_keep=kept).logits
