"""The shipped fakes: the same outputs anywhere and in any order, and better ones after more training."""

import asyncio
import random
from pathlib import Path

import numpy as np

from semievol_ray.core.answers import Labels
from semievol_ray.engines.adapters import adapter_digest, verify_adapter
from semievol_ray.engines.base import Completion, EngineSpec, Request, Sampling, ScoreRequest
from semievol_ray.engines.scripted import ByteTokenizer, HashEmbedder, ScriptedGenerator, finetune

WORDS = ("plant", "animal", "food")


def _spec(merged: str | None = None, adapters: dict[str, str] | None = None) -> EngineSpec:
    return EngineSpec("scripted", "m", "m", merged, adapters or {}, "float32", 512, 4, 0, 1, False, Labels(WORDS))


def _requests(num: int, temperature: float = 0.0, adapter: str | None = None) -> list[Request]:
    prompts = [f"<system>Say.\x00<user>thing {i} [{WORDS[i % 3]}]\x00<assistant>" for i in range(num)]
    return [Request(tuple(ByteTokenizer().encode(p)), Sampling(temperature, 16), adapter) for p in prompts]


def _answers(spec: EngineSpec, requests: list[Request]) -> list[Completion]:
    async def ask() -> list[Completion]:
        engine = ScriptedGenerator(spec)
        return list(await asyncio.gather(*[engine.generate(r) for r in requests]))

    return asyncio.run(ask())


def _num_right(completions: list[Completion]) -> int:
    return sum(c.text == f"Answer: {WORDS[i % 3]}" for i, c in enumerate(completions))


def _examples(num: int) -> list[dict[str, str]]:
    return [{"id": str(i), "answer": "plant"} for i in range(num)]


def test_scripted_answers_do_not_depend_on_order_or_engine() -> None:
    requests = _requests(40, temperature=1.0)
    first = dict(zip(requests, _answers(_spec(), requests), strict=True))
    random.Random(1).shuffle(requests)
    assert _answers(_spec(), requests) == [first[r] for r in requests]


def test_scripted_sampling_settings_draw_other_answers() -> None:
    cold, warm = (_answers(_spec(), _requests(40, temperature=t)) for t in (0.0, 1.0))
    assert [c.text for c in cold] != [c.text for c in warm]


def test_scripted_adapter_knows_more_the_more_examples_it_saw_merged_or_dynamic(tmp_path: Path) -> None:
    for num in (5, 500):
        finetune(_examples(num), str(tmp_path / str(num)))
    base = _num_right(_answers(_spec(), _requests(300)))
    little, much = (_num_right(_answers(_spec(merged=str(tmp_path / n)), _requests(300))) for n in ("5", "500"))
    assert base < little < much
    dynamic = _spec(adapters={"warm": str(tmp_path / "500")})
    assert _num_right(_answers(dynamic, _requests(300, adapter="warm"))) == much
    assert _num_right(_answers(dynamic, _requests(300))) == base


def test_scripted_confidence_is_higher_where_the_answer_is_right() -> None:
    completions = _answers(_spec(), _requests(200))
    right = [c.text == f"Answer: {WORDS[i % 3]}" for i, c in enumerate(completions)]
    nll = np.array([-np.mean(c.token_logprobs) for c in completions])
    assert nll[np.array(right)].mean() < nll[~np.array(right)].mean()


def test_scripted_score_of_what_it_answers_is_its_logprobs_and_a_right_answer_scores_higher() -> None:
    requests = _requests(60, temperature=1.0)
    completions = _answers(_spec(), requests)

    async def score(request: Request, ids: tuple[int, ...]) -> tuple[float, ...]:
        return await ScriptedGenerator(_spec()).score(ScoreRequest(request.prompt_ids, ids))

    for i, (request, completion) in enumerate(zip(requests, completions, strict=True)):
        assert asyncio.run(score(request, completion.token_ids)) == completion.token_logprobs
        texts = ["Answer: " + word for word in WORDS]
        best = max(texts, key=lambda text: asyncio.run(score(request, tuple(text.encode())))[0])
        assert best == f"Answer: {WORDS[i % 3]}"


def test_scripted_finetune_saves_an_adapter_that_depends_on_the_examples_and_not_their_order(tmp_path: Path) -> None:
    sets = {"a": _examples(9), "b": _examples(9)[::-1], "c": _examples(8)}
    for name, examples in sets.items():
        finetune(examples, str(tmp_path / name))
        verify_adapter(str(tmp_path / name))
    digests = {name: adapter_digest(str(tmp_path / name)) for name in sets}
    assert digests["a"] == digests["b"] != digests["c"]


def test_byte_tokenizer_gives_back_any_text() -> None:
    text = "naïve 🙂 漢字\n"
    assert ByteTokenizer().decode(ByteTokenizer().encode(text)) == text


def test_hash_embedder_puts_texts_that_share_words_nearer() -> None:
    a, b, c = HashEmbedder().embed(["a tall green plant", "the green plant", "steam engines of iron"])
    np.testing.assert_allclose(np.linalg.norm([a, b, c], axis=1), 1, atol=1e-6)
    assert a @ b > a @ c
    assert HashEmbedder().embed([]).shape[0] == 0
