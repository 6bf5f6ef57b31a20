"""vLLM as a `Generator`, on CPU and CUDA alike: one engine per process.

Invariant: log-probabilities are raw, generation defaults of the model folder are ignored, and no batch mixes base and
adapter rows where that is silently wrong. Prompt log-probabilities are never asked for.
"""

import asyncio
import itertools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

from semievol_ray.engines.base import (
    Completion,
    EngineSpec,
    Request,
    RequestFailedError,
    Sampling,
    ScoreRequest,
    Tokenizer,
)
from semievol_ray.engines.enginestats import stat_loggers
from semievol_ray.engines.faults import described
from semievol_ray.engines.inprocess import InProcessEngine
from semievol_ray.engines.prefixes import Add, ignored
from semievol_ray.engines.rendering import end_of_turn_id, load_tokenizer, num_tokens_of
from semievol_ray.engines.together import Together
from semievol_ray.errors import EngineDiedError, MissingExtraError

MOST_TOKENS_ASKED = 64
"""Log-probabilities asked of vLLM in one request, which allows 128."""


def cpu_cache_bytes() -> int:
    """The cache of an engine on a CPU where the configuration does not say: vLLM's own variable, in GiB, or 2 GiB."""
    return int(os.environ.get("VLLM_CPU_KVCACHE_SPACE") or 2) * 2**30


class VllmGenerator:
    """Hosts one vLLM engine; `generate` may be called many times at once from one event loop."""

    def __init__(self, spec: EngineSpec, beat: Callable[[], None] = lambda: None, on_prefixes: Add = ignored) -> None:
        _set_environment(spec)
        arguments = engine_arguments(spec)
        self.tokenizer: Tokenizer = load_tokenizer(spec.model_path)
        self.max_num_seqs: int = arguments["max_num_seqs"]
        self._end_of_turn = end_of_turn_id(self.tokenizer, "2024-01-01")
        self._engine = _engine(spec, arguments, beat, on_prefixes)
        self._loras = {name: (i, path) for i, (name, path) in enumerate(spec.adapters.items(), start=1)}
        self._merged = spec.merged is not None
        self._ids = itertools.count()
        self._together, self._scores = Together(self._completions), Together(self._next_logprobs)

    @property
    def client(self) -> Any:
        """vLLM's own engine, for its OpenAI server; an AsyncLLM where the core has a process of its own."""
        return self._engine

    @property
    def adapters(self) -> dict[str, str]:
        """Name -> folder of the adapters served dynamically, in the order of their slots."""
        return {name: path for name, (_, path) in self._loras.items()}

    async def check_health(self) -> None:
        """Raises when vLLM's engine is gone; one within this process tells by its next answer."""
        if hasattr(self._engine, "check_health"):
            await self._engine.check_health()

    async def generate(self, request: Request) -> Completion:
        return await self._together.ask(request, None)

    async def _completions(self, request: Request, askers: Sequence[None]) -> list[Completion]:
        """Answers to one prompt, each drawn by itself; greedy ones are all the same."""
        num = len(askers)
        num_drawn = num if request.sampling.temperature > 0 else 1
        params = _sampling_params(request.sampling, self._end_of_turn, num_drawn)
        outputs = await self._outputs(request.prompt_ids, params, request.adapter)
        return [completion_of(output, request.sampling, self.tokenizer) for output in outputs] * (num // num_drawn)

    async def score(self, request: ScoreRequest) -> tuple[float, ...]:
        """The answer is sampled, each token from that token alone, so that its prompt comes from the prefix cache.

        Scores of one prompt that are asked at once share a request for each beginning that their answers share.
        Not vLLM's prompt_logprobs: that reads no prefix cache, holds logits for every position of the prompt, and
        with LoRA on the CPU ends the engine as soon as a batch holds two requests (vLLM 0.32).
        """
        prompt, answer = request.prompt_ids, request.answer_ids
        behind = [(prompt + answer[:i], request.adapter) for i in range(len(answer))]
        asked = zip(behind, answer, strict=True)
        return tuple(await asyncio.gather(*(self._scores.ask(question, token) for question, token in asked)))

    async def _next_logprobs(self, question: tuple[tuple[int, ...], str | None], tokens: Sequence[int]) -> list[float]:
        """log P of each of these tokens as the one that comes next."""
        different = list(dict.fromkeys(tokens))
        told = await self._told(question, different, MOST_TOKENS_ASKED if _tells_of_tokens() else 1)
        # where it speculates, vLLM tells of the sampled token alone
        told |= await self._told(question, [token for token in different if token not in told], 1)
        return [told[token] for token in tokens]

    async def _told(
        self, question: tuple[tuple[int, ...], str | None], tokens: Sequence[int], width: int
    ) -> dict[int, float]:
        """What vLLM tells of the next token when asked for `width` of these in a request."""
        asked = [tokens[i : i + width] for i in range(0, len(tokens), width)]
        found = await asyncio.gather(*(self._outputs(question[0], _forced(some), question[1]) for some in asked))
        return {token: one.logprob for (output,) in found for token, one in output.logprobs[0].items()}

    async def _outputs(self, prompt_ids: Sequence[int], params: Any, adapter: str | None) -> list[Any]:
        """vLLM's CompletionOutputs for one prompt. Raises EngineDiedError when the engine is gone.

        vLLM says EngineGenerateError of one request that failed, and of every request when what hands out its answers
        has ended; then it counts itself as `errored`.
        """
        from vllm import TokensPrompt
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        prompt, final = TokensPrompt(prompt_token_ids=list(prompt_ids)), None
        alone: tuple[type[Exception], ...] = (*_refusals(), EngineGenerateError)
        try:
            async for output in self._engine.generate(
                prompt, params, f"r{next(self._ids)}", lora_request=self._lora(adapter)
            ):
                final = output
        except EngineDeadError as error:
            raise EngineDiedError(f"the vLLM engine died: {error}") from error
        except alone as error:
            if isinstance(error, EngineGenerateError) and getattr(self._engine, "errored", False):
                raise EngineDiedError(f"the vLLM engine gives no more answers: {described(error)}") from error
            raise RequestFailedError(f"vLLM did not answer this request: {type(error).__name__}: {error}") from error
        assert final is not None
        return list(final.outputs)

    def _lora(self, adapter: str | None) -> Any:
        if adapter is None or self._merged:
            return None
        from vllm.lora.request import LoRARequest

        number, path = self._loras[adapter]
        return LoRARequest(adapter, number, path)

    def close(self) -> None:
        self._engine.shutdown()
        del self._engine  # else AsyncLLM's destructor complains at the interpreter's end


def _refusals() -> tuple[type[Exception], ...]:
    """What vLLM raises of a request that it does not take: ValueError, or an error of its own (vLLM 0.32)."""
    from vllm import exceptions

    return (ValueError, getattr(exceptions, "VLLMValidationError", ValueError))


def _engine(spec: EngineSpec, arguments: dict[str, Any], beat: Callable[[], None], on_prefixes: Add) -> Any:
    """vLLM's asynchronous engine, whose core has a process of its own; on a CPU an engine within this process.

    Either beats with every step. Two processes keep a GPU busy while Python renders. On a CPU they fight for the same
    cores and import all twice.
    """
    try:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM
    except ImportError as error:
        extra = "cuda" if spec.on_gpu else "cpu"
        raise MissingExtraError(f"vLLM cannot be imported ({error}): pip install 'semievol-ray[{extra}]'") from error
    if _in_thread(spec):
        arguments = {k: v for k, v in arguments.items() if k != "enable_log_requests"}
        return InProcessEngine(arguments, beat=beat, on_prefixes=on_prefixes)
    loggers = stat_loggers(on_prefixes)
    return _beating(AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments), stat_loggers=loggers), beat)


def _beating(engine: Any, beat: Callable[[], None]) -> Any:
    """An AsyncLLM that beats whenever outputs of a step arrive; between answers vLLM tells of none of them."""
    processor = getattr(engine, "output_processor", None)
    process = getattr(processor, "process_outputs", None)
    if processor is None or process is None:  # another vLLM: the end of each answer is left as a beat
        return engine

    def beating(*args: Any, **kwargs: Any) -> Any:
        beat()
        return process(*args, **kwargs)

    processor.process_outputs = beating
    return engine


def engine_arguments(spec: EngineSpec) -> dict[str, Any]:
    """The arguments for vLLM's engine: the spec's numerics, our pins, and the user's speed settings."""
    arguments: dict[str, Any] = {
        "model": spec.model_path,
        "served_model_name": spec.model,
        "dtype": spec.dtype,
        "max_model_len": spec.max_model_len,
        "seed": spec.seed,
        "generation_config": "vllm",
        "logprobs_mode": "raw_logprobs",
        "enable_log_requests": False,
        "max_num_seqs": 256 if spec.on_gpu else 64,
    }
    if spec.adapters:
        # On the CPU the torch LoRA operators read base rows as the last slot, so one slot more stays empty.
        slots = len(spec.adapters) + (0 if spec.on_gpu else 1)
        arguments |= {"enable_lora": True, "max_lora_rank": _allowed_rank(spec.max_lora_rank), "max_loras": slots}
    if not spec.on_gpu:
        arguments |= {"enforce_eager": True, "block_size": 32, "kv_cache_memory_bytes": cpu_cache_bytes()}
        arguments |= {"distributed_executor_backend": "uni"} if _num_parallel(spec) == 1 else {}
    return {**arguments, **spec.numerics, **spec.speed}


def _set_environment(spec: EngineSpec) -> None:
    """What vLLM reads from the environment when it is imported; values the user set stay."""
    if spec.on_gpu:
        return
    if _num_parallel(spec) == 1:  # else vLLM puts a third process between engine and worker, which costs 8 s a start
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # auto wants a NUMA node for each worker
    os.environ["OMP_NUM_THREADS"] = str(spec.num_threads)
    os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
    if "kv_cache_memory_bytes" in spec.speed:
        os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # it would go before what the configuration says
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


def _in_thread(spec: EngineSpec) -> bool:
    return _num_parallel(spec) == 1 and (spec.core == "thread" or (spec.core == "auto" and not spec.on_gpu))


def _num_parallel(spec: EngineSpec) -> int:
    return math.prod(int(spec.speed.get(f"{k}_parallel_size", 1)) for k in ("tensor", "pipeline"))


def _allowed_rank(rank: int) -> int:
    """The smallest max_lora_rank vLLM accepts that holds `rank`."""
    return next((r for r in (8, 16, 32, 64, 128, 256, 320, 512) if r >= rank), rank)


def _sampling_params(sampling: Sampling, end_of_turn: int, num: int) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    return SamplingParams(
        n=num,
        stop=list(sampling.stop),
        structured_outputs=StructuredOutputsParams(choice=list(sampling.choices)) if sampling.choices else None,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_tokens=sampling.max_tokens,
        stop_token_ids=[end_of_turn],  # templates may close a turn with another token than the eos of the model
        logprobs=0,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _tells_of_tokens() -> bool:
    """Whether vLLM can be asked for the log-probabilities of tokens that it does not sample (0.32 can)."""
    from vllm import SamplingParams

    return hasattr(SamplingParams, "logprob_token_ids")


def _forced(tokens: Sequence[int]) -> Any:
    """Parameters under which the next token can only be the first of these; log-probabilities are before the mask."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    told: dict[str, Any] = {"logprob_token_ids": list(tokens)} if len(tokens) > 1 else {"logprobs": 0}
    return SamplingParams(
        temperature=0.0,
        max_tokens=1,
        allowed_token_ids=list(tokens[:1]),
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        **told,
    )


def completion_of(output: Any, sampling: Sampling, tokenizer: Tokenizer) -> Completion:
    """vLLM's output without the end-of-turn token, or the tokens of the stop string, that stopped it."""
    token_ids = list(output.token_ids)
    logprobs = [step[token].logprob for token, step in zip(token_ids, output.logprobs, strict=True)]
    kept = len(token_ids) - (output.finish_reason == "stop" and not isinstance(output.stop_reason, str))
    if isinstance(output.stop_reason, str):
        kept = num_tokens_of(tokenizer, token_ids, output.text)
    finish_reason: Literal["stop", "length"] = "stop" if output.finish_reason == "stop" else "length"
    told = () if sampling.choices else tuple(logprobs[:kept])
    return Completion(output.text, tuple(token_ids[:kept]), told, finish_reason)
