"""The seam between the method and what owns a device: requests, completions, and the three protocols.

Invariant: prompts cross this seam as token ids, and as messages only to an endpoint, which has its own tokenizer;
log-probabilities are raw (before temperature, masks and warpers).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from semievol_ray.core.answers import AnswerFormat
from semievol_ray.core.prompts import Message
from semievol_ray.methodconfig import EndpointConfig


@dataclass(frozen=True)
class Sampling:
    """How one completion is drawn; `temperature` 0 is greedy, `top_k` 0 considers every token.

    It ends before the first of the `stop` strings. With `choices` it is one of them, and has no log-probabilities: what
    engines give after such a mask is renormalised, another quantity than every other completion's.
    """

    temperature: float
    max_tokens: int
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """One prompt as token ids; `adapter` names one of the engine's adapters, None asks the base model.

    An engine without a tokenizer is asked `messages` instead.
    """

    prompt_ids: tuple[int, ...]
    sampling: Sampling
    adapter: str | None = None
    messages: tuple[Message, ...] = ()


@dataclass(frozen=True)
class ScoreRequest:
    """An answer, as token ids, whose probability after a prompt is wanted; `adapter` as in `Request`."""

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    adapter: str | None = None


@dataclass(frozen=True)
class Completion:
    """One answer without its end-of-turn token; `token_logprobs[i]` is log P(`token_ids[i]`), raw, in nats.

    An endpoint gives no ids: `token_texts` go with its log-probabilities (None where they do not make up the text), and
    it counts the tokens itself.
    """

    text: str
    token_ids: tuple[int, ...]
    token_logprobs: tuple[float, ...]
    finish_reason: Literal["stop", "length"]
    token_texts: tuple[str, ...] | None = None
    num_prompt_tokens: int | None = None
    num_tokens: int | None = None


class RequestFailedError(Exception):
    """One request got no answer whatever was tried; it is the end of that row, not of the engine."""


@dataclass(frozen=True)
class EngineSpec:
    """One engine group: a set of resident weights, as plain values that travel to any node.

    `model_path` is a reference, of which `local_weights` makes a folder where it is loaded.
    `merged` is an adapter folder baked into the weights; `adapters` maps names to folders served dynamically.
    `numerics` and `speed` are engine arguments under vLLM's names; `answer_format` serves the scripted engine only;
    `core` says where vLLM's core runs.
    Of kind openai, `endpoint` says where the model is served and `model` under which name; the weights are elsewhere.
    """

    kind: Literal["vllm", "transformers", "scripted", "openai"]
    model: str
    model_path: str
    merged: str | None
    adapters: Mapping[str, str]
    dtype: str
    max_model_len: int
    max_lora_rank: int
    seed: int
    num_threads: int
    on_gpu: bool
    answer_format: AnswerFormat
    numerics: Mapping[str, Any] = field(default_factory=dict)
    speed: Mapping[str, Any] = field(default_factory=dict)
    endpoint: EndpointConfig | None = None
    core: Literal["auto", "process", "thread"] = "auto"


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that rendering needs."""

    eos_token_id: int | None

    def apply_chat_template(self, conversation: Sequence[Mapping[str, str]], **kwargs: Any) -> Any: ...

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]: ...

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str: ...


class Generator(Protocol):
    """A model that answers prompts; owns its device until closed."""

    max_num_seqs: int

    @property
    def tokenizer(self) -> Tokenizer | None:
        """None for an endpoint, which is asked messages and scores nothing."""
        ...

    async def generate(self, request: Request) -> Completion:
        """Answer one prompt; many calls run at once.

        Raises EngineDiedError when the engine is gone, RequestFailedError when this request alone has no answer.
        """
        ...

    async def score(self, request: ScoreRequest) -> tuple[float, ...]:
        """log P of each answer token given the prompt and the answer tokens before it, raw, in nats."""
        ...

    def close(self) -> None: ...


class Embedder(Protocol):
    """Text -> unit vectors."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings of shape (len(texts), D), float32, each of length 1."""
        ...


class Index(Protocol):
    """The nearest of N stored vectors by inner product."""

    def search(self, queries_QD: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and positions of shape (Q, min(k, N)), best first."""
        ...
