"""What is rendered: training ids against the template over the whole conversation, and where tokens lie in a text."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from semievol_ray.config import SpeedConfig, TrainConfig
from semievol_ray.core.answers import Labels
from semievol_ray.core.confidence import answer_nll
from semievol_ray.core.prompts import Demonstration, Message, question_messages
from semievol_ray.engines import finetune
from semievol_ray.engines.base import Completion, EngineSpec, Request, Sampling
from semievol_ray.engines.loss import collate
from semievol_ray.engines.rendering import (
    answer_ids,
    before_stop,
    end_of_turn_id,
    load_tokenizer,
    num_tokens_of,
    prompt_ids,
    token_spans,
)
from semievol_ray.engines.transformers import TransformersGenerator
from semievol_ray.errors import ModelError
from semievol_ray.stages.answering import Asker, Load
from semievol_ray.tasks import Task

DATE, DATE_IN_WORDS = "2021-03-05", "05 Mar 2021"
INSTRUCTION = "Say what kind of thing is described."
TASK = Task("kinds", INSTRUCTION, Labels(("plant", "animal", "food")), max_tokens=12)
styles = pytest.mark.parametrize("style", ["chatml", "llama", "gemma"])

TokenizerOf = Callable[..., Any]


@pytest.mark.parametrize(("stop", "text"), [((), "a b c"), (("x",), "a b c"), ((" c", " b"), "a"), (("a",), "")])
def test_text_ends_before_the_first_stop_string_whichever_it_is(stop: tuple[str, ...], text: str) -> None:
    assert before_stop("a b c", stop) == text


def test_tokens_of_the_beginning_of_a_text_are_those_that_write_it(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("chatml")
    ids = tokenizer.encode("Answer: plant\n\nAnswer: food", add_special_tokens=False)
    num = num_tokens_of(tokenizer, ids, "Answer: plant")
    assert tokenizer.decode(ids[:num]).startswith("Answer: plant")
    assert not tokenizer.decode(ids[: num - 1]).startswith("Answer: plant")
    assert num_tokens_of(tokenizer, ids, "") == 0


def _conversation(style: str, question: str, answer: str, shown: list[Demonstration]) -> list[dict[str, str]]:
    """The conversation as the style's users write it: without a system role its first turn leads with the task."""
    turns = [(turn.question, turn.answer) for turn in shown] + [(question, answer)]
    messages = [{"role": "system", "content": INSTRUCTION}] if style != "gemma" else []
    for index, (asked, answered) in enumerate(turns):
        lead = f"{INSTRUCTION}\n\n" if style == "gemma" and index == 0 else ""
        messages += [{"role": "user", "content": lead + asked}, {"role": "assistant", "content": answered}]
    return messages


@styles
@pytest.mark.parametrize("num_shown", [0, 2])
def test_training_ids_are_the_templates_own_ids_up_to_the_end_of_turn(
    style: str, num_shown: int, tokenizer_of: TokenizerOf, end_of_turn: Mapping[str, str]
) -> None:
    tokenizer = tokenizer_of(style)
    shown = [Demonstration(f"a red thing {i}", "Answer: food") for i in range(num_shown)]
    question, answer = "a green thing that grows, naïve 🙂", "Answer: plant"
    messages = question_messages(INSTRUCTION, question, shown)
    ids = prompt_ids(tokenizer, messages, DATE)
    ids += answer_ids(tokenizer, answer, end_of_turn_id(tokenizer, DATE))
    whole = tokenizer.apply_chat_template(
        _conversation(style, question, answer, shown), tokenize=True, return_dict=False, date_string=DATE_IN_WORDS
    )
    assert ids == whole[: len(ids)]
    assert tokenizer.decode(whole[len(ids) :]).strip() == ""
    assert tokenizer.convert_ids_to_tokens(ids[-1]) == end_of_turn[style]


@pytest.mark.parametrize("style", ["llama", "gemma"])
def test_prompt_of_a_tokenizer_that_adds_bos_begins_with_exactly_one(style: str, tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of(style)
    assert tokenizer.encode("x")[0] == tokenizer.bos_token_id
    ids = prompt_ids(tokenizer, question_messages(INSTRUCTION, "a thing", ()), DATE)
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize(
    "template",
    [
        None,
        "{{ 'Date ' + strftime_now('%d %b %Y') }}{% for m in messages %}{{ m['content'] + '<|eot_id|>' }}{% endfor %}",
    ],
    ids=["date_string", "strftime_now"],
)
def test_prompt_of_a_template_that_reads_the_clock_has_the_configured_date(
    template: str | None, tokenizer_of: TokenizerOf
) -> None:
    tokenizer = tokenizer_of("llama", template)
    text = tokenizer.decode(prompt_ids(tokenizer, question_messages(INSTRUCTION, "a thing", ()), DATE))
    assert DATE_IN_WORDS in text


@pytest.mark.parametrize("drops", [False, True], ids=["raises", "drops silently"])
def test_prompt_of_a_template_without_system_role_keeps_the_instruction_once(
    drops: bool, tokenizer_of: TokenizerOf
) -> None:
    silent = "{% for m in messages if m['role'] != 'system' %}{{ '<start_of_turn>' + m['content'] }}{% endfor %}"
    tokenizer = tokenizer_of("gemma", silent if drops else None)
    text = tokenizer.decode(prompt_ids(tokenizer, question_messages(INSTRUCTION, "a thing", ()), DATE))
    assert text.count(INSTRUCTION) == 1
    assert text.index(INSTRUCTION) < text.index("a thing")


def test_prompt_that_the_template_refuses_raises_model_error(tokenizer_of: TokenizerOf) -> None:
    with pytest.raises(ModelError, match="take turns"):
        prompt_ids(tokenizer_of("gemma"), [Message("user", "a"), Message("user", "b")], DATE)


def test_end_of_turn_of_a_template_without_one_is_eos_or_refused(tokenizer_of: TokenizerOf) -> None:
    bare = "{% for m in messages %}{{ m['content'] + '\n' }}{% endfor %}"
    tokenizer = tokenizer_of("chatml", bare)
    assert end_of_turn_id(tokenizer, DATE) == tokenizer.eos_token_id
    with pytest.raises(ModelError, match="eos"):
        end_of_turn_id(tokenizer_of("chatml", bare, eos=False), DATE)


def test_tokenizer_without_chat_template_is_refused(tmp_path: Path, tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("chatml")
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no chat template"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("text", ["Answer: plant", "Answer: 🙂 plant", "漢字 né", "🙂🙃", "a\n  b ", ""])
def test_token_spans_are_the_characters_each_token_has_a_byte_of(text: str, tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("chatml")
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    spans = token_spans(tokenizer, encoded["input_ids"], text)
    assert spans == [tuple(pair) for pair in encoded["offset_mapping"]]


def test_answer_nll_of_an_answer_of_many_byte_characters_counts_every_token_of_it(tokenizer_of: TokenizerOf) -> None:
    tokenizer, text = tokenizer_of("chatml"), "Answer: 漢🙂."
    ids = tokenizer.encode(text, add_special_tokens=False)
    spans, (start, end) = token_spans(tokenizer, ids, text), (text.index("漢"), len(text) - 1)
    inside = len("漢🙂".encode())  # not in the corpus: a token a byte
    logprobs = [-1.0 if max(s, start) < min(e, end) else -9.0 for s, e in spans]
    assert sum(value == -1.0 for value in logprobs) == inside
    assert answer_nll(logprobs, spans, start, end) == 1.0


@pytest.fixture(scope="module")
def sentencepiece() -> Any:
    """As Llama 2's: a word begins with its blank, and the decoder drops the first one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    replaced, fused = decoders.Replace("▁", " "), decoders.Fuse()
    inner.decoder = decoders.Sequence([replaced, decoders.ByteFallback(), fused, decoders.Strip(" ", 1, 0)])
    inner_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", *inner_bytes], show_progress=False)
    inner.train_from_iterator(["Answer: plant or food", "a green plant\nis food"] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


@pytest.mark.parametrize("said", ["Answer: plant", "food or Answer: a plant", "plant"])
def test_spans_of_a_tokenizer_that_drops_the_first_blank_lie_where_a_streamed_text_has_them(
    said: str, sentencepiece: Any
) -> None:
    ids = sentencepiece.encode(said, add_special_tokens=False)
    pieces = [token.replace("▁", " ") for token in sentencepiece.convert_ids_to_tokens(ids)]
    assert sentencepiece.decode(ids) == said
    for text in (said, f" {said}"):  # as decoded alone, and as vLLM streams it behind a prompt
        shift = len(text) - len("".join(pieces))
        ends = [shift + end for end in accumulate(len(piece) for piece in pieces)]
        spans = token_spans(sentencepiece, ids, text)
        assert [end for _, end in spans] == ends
        assert [begin for begin, _ in spans[1:]] == ends[:-1]
        assert spans[0][0] in (0, text.index(said))
        assert num_tokens_of(sentencepiece, ids + ids, text) == len(ids)


def test_spans_of_a_long_text_take_time_in_proportion_to_it(tokenizer_of: TokenizerOf) -> None:
    class Counted:
        eos_token_id, num = None, 0

        def decode(self, token_ids: Sequence[int], **_: bool) -> str:
            self.num += len(token_ids)
            return str(inner.decode(token_ids))

    inner, counted = tokenizer_of("chatml"), Counted()
    ids = inner.encode("Answer: 🙂 plant. " * 100, add_special_tokens=False)
    token_spans(counted, ids, inner.decode(ids))  # type: ignore[arg-type]
    assert counted.num < 12 * len(ids)


class RecordingEngine:
    """Passes requests on and keeps their prompt ids."""

    def __init__(self, inner: TransformersGenerator) -> None:
        self._inner, self.tokenizer, self.max_num_seqs = inner, inner.tokenizer, inner.max_num_seqs
        self.prompts: list[tuple[int, ...]] = []
        self.completions: list[Completion] = []

    async def generate(self, request: Request) -> Completion:
        self.prompts.append(request.prompt_ids)
        self.completions.append(await self._inner.generate(request))
        return self.completions[-1]

    def close(self) -> None:
        self._inner.close()


@styles
def test_collated_ids_are_the_ids_an_engine_is_asked_and_answers(
    style: str, model_of: Callable[[str], Path], end_of_turn: Mapping[str, str]
) -> None:
    folder = model_of(style)
    row = {"id": "r", "question": "a green thing, naïve 🙂", "options": None, "answer": "plant", "weight": 1.0}
    batch = collate(finetune.tokenised([row], _spec(folder), load_tokenizer(str(folder))), pad=0)
    _learn(folder, batch)
    engine = RecordingEngine(TransformersGenerator(_engine_spec(folder)))
    asker = Asker(engine, TASK, 256, DATE, Load(), [])
    reply = asyncio.run(
        asker.ask(lambda _: question_messages(INSTRUCTION, str(row["question"]), ()), 0, None, Sampling(0.0, 12), None)
    )
    assert (reply["text"], reply["answer"], reply["finish_reason"]) == ("Answer: plant", "plant", "stop")
    stop = load_tokenizer(str(folder)).encode(end_of_turn[style], add_special_tokens=False)
    assert batch["input_ids"][0].tolist() == [*engine.prompts[0], *engine.completions[0].token_ids, *stop]
    assert batch["labels"][0].tolist()[len(engine.prompts[0]) :] == [*engine.completions[0].token_ids, *stop]


def _learn(folder: Path, batch: dict[str, Any]) -> None:
    """Overfit the model in `folder` on one batch, so that greedy decoding repeats its answer."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        loss = model(input_ids=batch["input_ids"], labels=batch["labels"]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)


def _spec(folder: Path) -> finetune.FinetuneSpec:
    return finetune.FinetuneSpec(
        str(folder), (), TASK, TrainConfig(), SpeedConfig(), "float32", 256, DATE, 0, False, "unused", "unused"
    )


def _engine_spec(folder: Path) -> EngineSpec:
    return EngineSpec("transformers", "tiny", str(folder), None, {}, "float32", 256, 16, 0, 1, False, TASK.format)
