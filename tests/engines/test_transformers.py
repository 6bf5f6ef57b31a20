"""The transformers engine: what a request gets does not depend on what it is batched with."""

import asyncio
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from semievol_ray.core.answers import Labels
from semievol_ray.engines.base import Completion, EngineSpec, Request, Sampling, ScoreRequest
from semievol_ray.engines.transformers import TransformersGenerator

GREEDY = Sampling(0.0, 8)
PROMPTS = [tuple(range(10, 10 + n)) for n in (3, 17, 9, 40, 1)]


def _spec(model: Path, adapters: dict[str, str] | None = None) -> EngineSpec:
    return EngineSpec(
        "transformers", "tiny", str(model), None, adapters or {}, "float32", 256, 4, 0, 1, False, Labels(("a", "b"))
    )


@pytest.fixture(scope="module")
def adapted(tiny_llama: Path, tiny_adapters: tuple[Path, Path]) -> TransformersGenerator:
    return TransformersGenerator(_spec(tiny_llama, {"a": str(tiny_adapters[0]), "b": str(tiny_adapters[1])}))


def _together(engine: TransformersGenerator, requests: Sequence[Request]) -> list[Completion]:
    async def ask() -> list[Completion]:
        return list(await asyncio.gather(*[engine.generate(r) for r in requests]))

    return asyncio.run(ask())


def _alone(engine: TransformersGenerator, requests: Sequence[Request]) -> list[Completion]:
    return [_together(engine, [request])[0] for request in requests]


def _assert_same(mine: Sequence[Completion], theirs: Sequence[Completion]) -> None:
    for a, b in zip(mine, theirs, strict=True):
        assert (a.token_ids, a.text, a.finish_reason) == (b.token_ids, b.text, b.finish_reason)
        assert a.token_logprobs == pytest.approx(b.token_logprobs, abs=1e-4)


def test_greedy_batch_of_unequal_lengths_gives_what_each_prompt_gives_alone(tiny_llama: Path) -> None:
    engine = TransformersGenerator(_spec(tiny_llama))
    requests = [Request(p, GREEDY) for p in PROMPTS]
    _assert_same(_together(engine, requests), _alone(engine, requests))


def test_logprobs_are_those_of_a_plain_forward_pass_even_when_sampling(tiny_llama: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    engine = TransformersGenerator(_spec(tiny_llama))
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    for sampling in (GREEDY, Sampling(0.5, 8, top_p=0.9, top_k=20)):
        for prompt, done in zip(PROMPTS, _together(engine, [Request(p, sampling) for p in PROMPTS]), strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([[*prompt, *done.token_ids]])).logits[0].double()
            rows = torch.log_softmax(logits[len(prompt) - 1 : -1], -1)
            expected = [float(row[token]) for row, token in zip(rows, done.token_ids, strict=False)]
            assert done.token_logprobs == pytest.approx(expected, abs=1e-4)
            if sampling == GREEDY:
                assert done.token_ids == tuple(rows.argmax(-1).tolist())


def test_stop_string_ends_the_text_before_it_and_its_tokens_are_no_part_of_the_answer(tiny_llama: Path) -> None:
    engine = TransformersGenerator(_spec(tiny_llama))
    free = _alone(engine, [Request(p, GREEDY) for p in PROMPTS])
    stops = [done.text[len(done.text) // 2 :][:2] for done in free]
    asked = [Request(p, replace(GREEDY, stop=(stop,))) for p, stop in zip(PROMPTS, stops, strict=True)]
    for stop, whole, cut in zip(stops, free, _alone(engine, asked), strict=True):
        assert cut.text == whole.text[: whole.text.index(stop)]
        assert cut.finish_reason == "stop"
        assert cut.token_ids == whole.token_ids[: len(cut.token_ids)]
        assert cut.token_logprobs == pytest.approx(whole.token_logprobs[: len(cut.token_ids)], abs=1e-4)
        assert len(cut.token_ids) < len(whole.token_ids)
        assert len(engine.tokenizer.decode(cut.token_ids)) >= len(cut.text)


def test_interleaved_base_and_adapter_requests_get_what_separate_ones_get(
    adapted: TransformersGenerator, tiny_llama: Path
) -> None:
    names = [None, "a", "b"]
    requests = [Request(p, GREEDY, names[i % 3]) for i, p in enumerate(PROMPTS * 2)]
    mixed = _together(adapted, requests)
    _assert_same(mixed, _alone(adapted, requests))
    plain = TransformersGenerator(_spec(tiny_llama))
    base = [i for i, r in enumerate(requests) if r.adapter is None]
    _assert_same([mixed[i] for i in base], _together(plain, [Request(requests[i].prompt_ids, GREEDY) for i in base]))
    answers = [_together(adapted, [Request(PROMPTS[1], GREEDY, name)])[0].token_ids for name in names]
    assert len(set(answers)) == 3


def test_adapter_request_gets_what_peft_computes(
    adapted: TransformersGenerator, tiny_llama: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, tiny_adapters[1])
    done = _together(adapted, [Request(PROMPTS[3], GREEDY, "b")])[0]
    with torch.no_grad():
        logits = model(torch.tensor([[*PROMPTS[3], *done.token_ids]])).logits[0]
    rows = torch.log_softmax(logits.double(), -1)[len(PROMPTS[3]) - 1 : -1]
    assert done.token_logprobs == pytest.approx(
        [float(r[t]) for r, t in zip(rows, done.token_ids, strict=False)], abs=1e-4
    )


def test_generation_defaults_of_the_model_folder_change_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    defaults: dict[str, Any] = json.loads((folder / "generation_config.json").read_text())
    changed = defaults | {
        "repetition_penalty": 5.0,
        "do_sample": True,
        "temperature": 0.1,
        "min_p": 0.5,
        "max_length": 4,
    }
    (folder / "generation_config.json").write_text(json.dumps(changed))
    requests = [Request(p, GREEDY) for p in PROMPTS]
    plain, defaulted = (_together(TransformersGenerator(_spec(m)), requests) for m in (tiny_llama, folder))
    _assert_same(plain, defaulted)


def test_completion_at_max_tokens_ends_with_length_and_one_at_a_stop_token_leaves_it_out(tiny_llama: Path) -> None:
    engine = TransformersGenerator(_spec(tiny_llama))
    whole = _together(engine, [Request(PROMPTS[1], Sampling(0.0, 200))])[0]
    cut = _together(engine, [Request(PROMPTS[1], Sampling(0.0, 2))])[0]
    assert (cut.finish_reason, len(cut.token_ids)) == ("length", 2)
    assert cut.token_ids == whole.token_ids[:2]
    assert engine.tokenizer.eos_token_id not in whole.token_ids


def test_cancelled_request_does_not_keep_the_others_waiting(tiny_llama: Path) -> None:
    engine = TransformersGenerator(_spec(tiny_llama))

    async def ask() -> list[Completion]:
        tasks = [asyncio.create_task(engine.generate(Request(p, Sampling(0.0, 3 + i)))) for i, p in enumerate(PROMPTS)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        tasks[0].cancel()  # the first batch is under way
        async with asyncio.timeout(20):
            return list(await asyncio.gather(*tasks[1:]))

    assert len(asyncio.run(ask())) == len(PROMPTS) - 1


def test_request_the_model_cannot_answer_fails_alone(adapted: TransformersGenerator) -> None:
    async def ask() -> list[Completion | BaseException]:
        requests = [
            Request(PROMPTS[0], GREEDY, "unknown"),
            Request(PROMPTS[0], GREEDY),
            Request(PROMPTS[0], GREEDY, "a"),
        ]
        async with asyncio.timeout(20):
            return list(await asyncio.gather(*[adapted.generate(r) for r in requests], return_exceptions=True))

    failed, *answered = asyncio.run(ask())
    assert isinstance(failed, Exception)
    assert all(isinstance(a, Completion) for a in answered)


ANSWERS = [(30, 31, 32), (33,), (40, 41, 42, 43, 44, 45), (), (50, 50)]


def _scores(engine: TransformersGenerator, requests: Sequence[ScoreRequest]) -> list[tuple[float, ...]]:
    async def ask() -> list[tuple[float, ...]]:
        return list(await asyncio.gather(*[engine.score(r) for r in requests]))

    return asyncio.run(ask())


@pytest.mark.parametrize("adapter", [None, "b"])
def test_scores_of_a_mixed_batch_are_those_of_a_plain_forward_pass(
    adapter: str | None, adapted: TransformersGenerator, tiny_llama: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, tiny_adapters[1]).eval() if adapter else model
    requests = [ScoreRequest(p, a, adapter) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    others = [ScoreRequest(PROMPTS[2], ANSWERS[0], "a" if adapter else "b")]
    for request, scores in zip(requests, _scores(adapted, [*requests, *others]), strict=False):
        prompt, answer = request.prompt_ids, request.answer_ids
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *answer]])).logits[0].double()
        rows = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1]
        assert scores == pytest.approx([float(r[t]) for r, t in zip(rows, answer, strict=False)], abs=1e-4)
        assert len(scores) == len(answer)


def test_score_of_a_greedy_answer_is_its_own_logprobs_and_goes_past_an_end_of_turn(tiny_llama: Path) -> None:
    engine = TransformersGenerator(_spec(tiny_llama))
    done = _together(engine, [Request(p, GREEDY) for p in PROMPTS])
    end = engine.tokenizer.eos_token_id
    assert end is not None
    asked = [ScoreRequest(p, (*c.token_ids, end, 20)) for p, c in zip(PROMPTS, done, strict=True)]
    for completion, scores in zip(done, _scores(engine, asked), strict=True):
        assert scores[:-2] == pytest.approx(completion.token_logprobs, abs=1e-4)
        assert scores[-1] < 0
        assert len(scores) == len(completion.token_ids) + 2


def test_scores_and_completions_asked_together_are_those_asked_apart(tiny_llama: Path) -> None:
    engine = TransformersGenerator(_spec(tiny_llama))
    requests = [Request(p, GREEDY) for p in PROMPTS]
    wanted = [ScoreRequest(p, a) for p, a in zip(PROMPTS, ANSWERS, strict=True)]

    async def both() -> list[Any]:
        calls = [c for r, w in zip(requests, wanted, strict=True) for c in (engine.generate(r), engine.score(w))]
        return list(await asyncio.gather(*calls))

    mixed = asyncio.run(both())
    _assert_same(mixed[::2], _together(engine, requests))
    for mine, theirs in zip(mixed[1::2], _scores(engine, wanted), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)
