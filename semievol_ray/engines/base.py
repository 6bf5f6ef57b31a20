"""The seam between the method and what owns a device: requests, completions, and the three protocols.

Invariant: prompts cross this seam as token ids, never as text, and log-probabilities are raw (before temperature,
masks and warpers).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from semievol_ray.core.answers import AnswerFormat


@dataclass(frozen=True)
class Sampling:
    """How one completion is drawn; `temperature` 0 is greedy, `top_k` 0 considers every token."""

    temperature: float
    max_tokens: int
    top_p: float = 1.0
    top_k: int = 0


@dataclass(frozen=True)
class Request:
    """One prompt as token ids; `adapter` names one of the engine's adapters, None asks the base model."""

    prompt_ids: tuple[int, ...]
    sampling: Sampling
    adapter: str | None = None


@dataclass(frozen=True)
class Completion:
    """One answer without its end-of-turn token; `token_logprobs[i]` is log P(`token_ids[i]`), raw, in nats."""

    text: str
    token_ids: tuple[int, ...]
    token_logprobs: tuple[float, ...]
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True)
class EngineSpec:
    """One engine group: a set of resident weights, as plain values that travel to any node.

    `merged` is an adapter folder baked into the weights; `adapters` maps names to folders served dynamically.
    `numerics` and `speed` are engine arguments under vLLM's names; `answer_format` serves the scripted engine only.
    """

    kind: Literal["vllm", "transformers", "scripted"]
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


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that rendering needs."""

    eos_token_id: int | None

    def apply_chat_template(self, conversation: Sequence[Mapping[str, str]], **kwargs: Any) -> Any: ...

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]: ...

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str: ...


class Generator(Protocol):
    """A model that answers prompts; owns its device until closed."""

    tokenizer: Tokenizer
    max_num_seqs: int

    async def generate(self, request: Request) -> Completion:
        """Answer one prompt; many calls run at once. Raises EngineDiedError when the engine is gone."""
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
