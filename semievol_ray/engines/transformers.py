"""transformers.generate as a `Generator`, for models vLLM does not serve: requests that wait together form a batch.

Invariant: one batch holds one adapter and one sampling (or answers to score), so that every row gets what it would get
alone.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from semievol_ray.engines.base import Completion, EngineSpec, Request, Sampling, ScoreRequest, Tokenizer
from semievol_ray.engines.rendering import before_stop, end_of_turn_id, load_tokenizer, num_tokens_of


@dataclass(frozen=True)
class _Waiting:
    request: Request | ScoreRequest
    answer: asyncio.Future[Any]

    @property
    def kind(self) -> tuple[str | None, Sampling | None]:
        return self.request.adapter, self.request.sampling if isinstance(self.request, Request) else None


class TransformersGenerator:
    """Hosts one transformers model; batches of up to `max_num_seqs` (default 16) waiting requests of one kind."""

    def __init__(self, spec: EngineSpec, beat: Callable[[], None] = lambda: None) -> None:
        import torch
        from transformers import AutoModelForCausalLM, GenerationConfig, StoppingCriteriaList

        torch.set_num_threads(spec.num_threads)
        torch.manual_seed(spec.seed)
        self.tokenizer: Tokenizer = load_tokenizer(spec.model_path)
        self.max_num_seqs = int(spec.speed.get("max_num_seqs", 16))
        model = AutoModelForCausalLM.from_pretrained(
            spec.model_path, dtype=getattr(torch, spec.dtype), local_files_only=True, trust_remote_code=False
        )
        self._stop_ids = sorted({end_of_turn_id(self.tokenizer, "2024-01-01"), *_eos_ids(model, self.tokenizer)})
        plain: Any = GenerationConfig  # the folder's own defaults, a repetition penalty say, are not asked for
        model.generation_config = plain()
        self._adapters = dict(spec.adapters)
        self._model = _with_adapters(model, spec.adapters).eval().to("cuda" if spec.on_gpu else "cpu")
        self._stopping = StoppingCriteriaList([_beating(beat)])
        self._queue: list[_Waiting] = []
        self._runner: asyncio.Task[None] | None = None

    async def generate(self, request: Request) -> Completion:
        completion: Completion = await self._queued(request)
        return completion

    async def score(self, request: ScoreRequest) -> tuple[float, ...]:
        logprobs: tuple[float, ...] = await self._queued(request)
        return logprobs

    async def _queued(self, request: Request | ScoreRequest) -> Any:
        waiting = _Waiting(request, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        return await waiting.answer

    async def _run(self) -> None:
        await asyncio.sleep(0)  # lets the callers of this moment queue up first
        while self._queue:
            kind = self._queue[0].kind
            batch = [w for w in self._queue if w.kind == kind][: self.max_num_seqs]
            self._queue = [w for w in self._queue if all(w is not b for b in batch)]
            await self._answer_each(batch)

    async def _answer_each(self, batch: Sequence[_Waiting]) -> None:
        """Hand every caller its result, or what went wrong; one that was cancelled meanwhile is left alone."""
        try:
            results = await asyncio.to_thread(self._results, [w.request for w in batch])
        except Exception as error:  # raised in the callers; the batches behind this one are still answered
            for w in batch:
                if not w.answer.done():
                    w.answer.set_exception(error)
            return
        for w, result in zip(batch, results, strict=True):
            if not w.answer.done():
                w.answer.set_result(result)

    def _results(self, requests: Sequence[Request | ScoreRequest]) -> list[Any]:
        """The results of requests of one kind, from one batch."""
        asked = [r for r in requests if isinstance(r, Request)]
        return self._answered(asked) if asked else self._scored([r for r in requests if isinstance(r, ScoreRequest)])

    def _answered(self, requests: Sequence[Request]) -> list[Completion]:
        sampling = requests[0].sampling
        tokens_BG, logprobs_BG = self._generated(
            [r.prompt_ids for r in requests],
            requests[0].adapter,
            max_new_tokens=sampling.max_tokens,
            eos_token_id=self._stop_ids,
            **({"stop_strings": list(sampling.stop), "tokenizer": self.tokenizer} if sampling.stop else {}),
            **_generation(sampling),
        )
        return [self._completion(t, p, sampling.stop) for t, p in zip(tokens_BG, logprobs_BG, strict=True)]

    def _scored(self, requests: Sequence[ScoreRequest]) -> list[tuple[float, ...]]:
        """Generation that is told every token, and so computes what it would have given each; shorter rows go on."""
        prompts, answers = [r.prompt_ids for r in requests], [r.answer_ids for r in requests]
        most = max(map(len, answers))
        if most == 0:
            return [() for _ in requests]
        _, logprobs_BG = self._generated(
            prompts,
            requests[0].adapter,
            max_new_tokens=most,
            prefix_allowed_tokens_fn=_told(answers, width=max(map(len, prompts)), pad=self._stop_ids[0]),
            **_generation(Sampling(0.0, most)),
        )
        return [tuple(row[: len(answer)]) for row, answer in zip(logprobs_BG, answers, strict=True)]

    def _generated(
        self, prompts: Sequence[Sequence[int]], adapter: str | None, **how: Any
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Tokens and their raw log-probabilities, both of shape (B, G), of one left-padded batch."""
        import torch

        self._use(adapter)
        ids_BT, mask_BT = _left_padded(prompts, pad=self._stop_ids[0])
        with torch.inference_mode():
            out = self._model.generate(
                input_ids=ids_BT.to(self._model.device),
                attention_mask=mask_BT.to(self._model.device),
                pad_token_id=self._stop_ids[0],
                return_dict_in_generate=True,
                output_logits=True,
                stopping_criteria=self._stopping,
                **how,
            )
        tokens_BG = out.sequences[:, ids_BT.shape[1] :]
        logprobs_BG = torch.stack(
            [
                torch.log_softmax(logits.float(), -1).gather(1, tokens_BG[:, g : g + 1])[:, 0]
                for g, logits in enumerate(out.logits)
            ],
            dim=1,
        )
        return tokens_BG.tolist(), logprobs_BG.tolist()

    def _completion(self, token_ids: list[int], logprobs: list[float], strings: Sequence[str]) -> Completion:
        stop = next((i for i, token in enumerate(token_ids) if token in self._stop_ids), None)
        kept = token_ids[:stop]
        whole = self.tokenizer.decode(kept, skip_special_tokens=True)
        text = before_stop(whole, strings)
        if text != whole:
            stop = num_tokens_of(self.tokenizer, kept, text)
            kept = kept[:stop]
        return Completion(text, tuple(kept), tuple(logprobs[:stop]), "length" if stop is None else "stop")

    def _use(self, adapter: str | None) -> None:
        if not self._adapters:
            return
        if adapter is None:
            self._model.base_model.disable_adapter_layers()
        else:
            self._model.base_model.enable_adapter_layers()
            self._model.set_adapter(adapter)

    def close(self) -> None:
        del self._model


def _beating(beat: Callable[[], None]) -> Any:
    """A stopping criterion that stops nothing, and beats with every token."""
    import torch
    from transformers import StoppingCriteria

    class Beating(StoppingCriteria):  # type: ignore[misc,unused-ignore]
        def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:  # noqa: ARG002
            beat()
            return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

    return Beating()


def _with_adapters(model: Any, adapters: Any) -> Any:
    from peft import PeftModel

    items = list(adapters.items())
    if not items:
        return model
    wrapped = PeftModel.from_pretrained(model, items[0][1], adapter_name=items[0][0])
    for name, path in items[1:]:
        wrapped.load_adapter(path, adapter_name=name)
    return wrapped


def _eos_ids(model: Any, tokenizer: Tokenizer) -> set[int]:
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return {i for i in [*ids, tokenizer.eos_token_id] if i is not None}


def _left_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Any, Any]:
    import torch

    width = max(len(row) for row in rows)
    ids_BT = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
    mask_BT = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids_BT, mask_BT


def _told(answers: Sequence[Sequence[int]], width: int, pad: int) -> Callable[[int, Any], list[int]]:
    """The one token allowed next in row b of a batch whose prompts are `width` wide."""

    def allowed(b: int, ids_T: Any) -> list[int]:
        at = len(ids_T) - width
        return [answers[b][at] if at < len(answers[b]) else pad]

    return allowed


def _generation(sampling: Sampling) -> dict[str, Any]:
    if sampling.temperature == 0:
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    return {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
