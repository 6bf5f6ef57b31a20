"""The arms that `benchmarks.generate` is held against, each as its own users would write it.

Invariant: every arm sends the plan's prompts with the plan's sampling and engine arguments, answers with the raw
log-probability of each token (transformers without), and then asks for the justifications that its drafts lead to.
"""

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.generate_plan import Answers, Messages, Pass, Plan
from benchmarks.scale_child import Phase

BATCH = 16
"""Rows that transformers.generate is given at once."""


def environment(plan: Plan) -> None:
    """What vLLM reads from the environment on a CPU, for every arm alike; on a GPU its own defaults."""
    if not plan.on_gpu:
        os.environ |= {
            "OMP_NUM_THREADS": str(plan.num_threads), "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
            "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }  # fmt: skip
    os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "TOKENIZERS_PARALLELISM": "false"}


def raw(plan: Plan, phase: Phase, *, reflect: bool = True) -> Answers:
    """(a) vLLM handed all prompts at once, a row's four beside each other; an engine for each set of weights."""
    made = Answers()
    groups = plan.groups()
    for n, (model, passes) in enumerate(groups):
        with _engine(plan, phase, model, made, n) as llm:
            order = [(i, p) for i in range(len(plan.rows)) for p in passes]
            with phase(f"answer {n}"):
                outputs = _generate(llm, plan, [(p, p.ids[i]) for i, p in order])
            for (_, p), text in zip(order, _counted(made, outputs), strict=True):
                made.drafts.setdefault(p.name, []).append(text)
            if reflect and n == len(groups) - 1:
                _reflect(plan, phase, llm, made)
    return made


def passes(plan: Plan, phase: Phase) -> Answers:
    """(c) A start of the engine and one batch for each collaborator, then one more for the reflection."""
    made = Answers()
    for n, p in enumerate(plan.passes):
        with _engine(plan, phase, plan.weights_of(warm=p.warm), made, n) as llm:
            with phase(f"answer {n}"):
                outputs = _generate(llm, plan, [(p, ids) for ids in p.ids])
            made.drafts[p.name] = _counted(made, outputs)
    with _engine(plan, phase, plan.weights_of(warm=plan.has_warm), made, len(plan.passes)) as llm:
        _reflect(plan, phase, llm, made)
    return made


def transformers(plan: Plan, phase: Phase) -> Answers:
    """(d) transformers.generate in batches of rows of like length, which need little padding."""
    import torch
    from transformers import AutoModelForCausalLM

    made = Answers()
    torch.set_num_threads(plan.num_threads)
    torch.manual_seed(0)
    device = "cuda" if plan.on_gpu else "cpu"
    for n, (folder, mine) in enumerate(plan.groups()):
        with phase(f"start {n}"):
            dtype = getattr(torch, str(plan.engine["dtype"]))
            loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
            model = loaded.to(device).eval()
        made.num_starts += 1
        with phase(f"answer {n}"):
            for p in mine:
                made.drafts[p.name] = _batches(model, plan, made, p.ids, p.temperature, p.max_tokens)
    with phase("reflect"):
        ids = plan.ids_of(plan.justifications(made.drafts))
        made.justified = _batches(model, plan, made, ids, 0.0, plan.justify_max_tokens)
    return made


@contextmanager
def _engine(plan: Plan, phase: Phase, model: str, made: Answers, n: int) -> Iterator[Any]:
    """An engine within this process (on a CPU that halves its start), gone afterwards; its cache's counts are kept."""
    environment(plan)
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "1" if plan.on_gpu else "0")
    with phase(f"start {n}"):
        from vllm import LLM
        from vllm.distributed import cleanup_dist_env_and_memory

        backend = {} if plan.on_gpu else {"distributed_executor_backend": "uni"}
        llm = LLM(model=model, disable_log_stats=False, logprobs_mode="raw_logprobs", **{**plan.engine, **backend})
    made.num_starts += 1
    before = _counters(llm)
    yield llm
    made.cached(*(after - b for after, b in zip(_counters(llm), before, strict=True)))
    del llm
    gc.collect()
    cleanup_dist_env_and_memory()


def _counters(llm: Any) -> tuple[int, int]:
    """Tokens looked up in the prefix cache and found there, by engines of this process so far."""
    found = {m.name: m.value for m in llm.get_metrics() if m.name.startswith("vllm:prefix_cache_")}
    return int(found["vllm:prefix_cache_queries"]), int(found["vllm:prefix_cache_hits"])


def _generate(llm: Any, plan: Plan, asked: Sequence[tuple[Pass, Sequence[int]]]) -> Any:
    prompts = [{"prompt_token_ids": list(ids)} for _, ids in asked]
    params = [_params(plan, p.temperature, p.max_tokens) for p, _ in asked]
    loras = [_lora(plan, p.warm) for p, _ in asked]
    return llm.generate(prompts, params, lora_request=loras if any(loras) else None, use_tqdm=False)


def _reflect(plan: Plan, phase: Phase, llm: Any, made: Answers) -> None:
    """The justifications, in one batch."""
    with phase("reflect"):
        ids = plan.ids_of(plan.justifications(made.drafts))
        params, lora = _params(plan, 0.0, plan.justify_max_tokens), _lora(plan, plan.has_warm)
        prompts = [{"prompt_token_ids": list(i)} for i in ids]
        made.justified = _counted(made, llm.generate(prompts, params, lora_request=lora, use_tqdm=False))


def _lora(plan: Plan, warm: bool) -> Any:
    if (folder := plan.lora(warm=warm)) is None:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest("warm", 1, folder)


def _params(plan: Plan, temperature: float, max_tokens: int) -> Any:
    from vllm import SamplingParams

    return SamplingParams(temperature=temperature, max_tokens=max_tokens, stop_token_ids=[plan.end_of_turn], logprobs=0)


def _counted(made: Answers, outputs: Any) -> list[str]:
    for output in outputs:
        made.num_tokens += len(output.outputs[0].token_ids)
        made.num_prompt_tokens += len(output.prompt_token_ids)
    return [output.outputs[0].text for output in outputs]


def _batches(
    model: Any, plan: Plan, made: Answers, ids: Sequence[Sequence[int]], temperature: float, max_tokens: int
) -> list[str]:
    """Texts in the order of `ids`, generated shortest first."""
    import torch

    from semievol_ray.engines.rendering import load_tokenizer

    tokenizer, texts = load_tokenizer(plan.model), [""] * len(ids)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
    for batch in (order[i : i + BATCH] for i in range(0, len(order), BATCH)):
        width = max(len(ids[i]) for i in batch)
        padded = torch.tensor([[plan.end_of_turn] * (width - len(ids[i])) + list(ids[i]) for i in batch])
        mask = torch.tensor([[0] * (width - len(ids[i])) + [1] * len(ids[i]) for i in batch])
        with torch.inference_mode():
            whole = model.generate(
                input_ids=padded.to(model.device), attention_mask=mask.to(model.device), max_new_tokens=max_tokens,
                eos_token_id=plan.end_of_turn, pad_token_id=plan.end_of_turn, **(sampling or {"do_sample": False}),
            )  # fmt: skip
        for i, row in zip(batch, whole[:, width:].tolist(), strict=True):
            answer = row[: row.index(plan.end_of_turn)] if plan.end_of_turn in row else row
            texts[i] = tokenizer.decode(answer, skip_special_tokens=True)
            made.num_tokens += len(answer)
            made.num_prompt_tokens += len(ids[i])
    return texts


def as_turns(messages: Messages) -> list[dict[str, str]]:
    """A conversation as OpenAI's messages."""
    return [{"role": m.role, "content": m.content} for m in messages]
