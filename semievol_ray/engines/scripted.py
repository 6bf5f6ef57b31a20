"""A shipped fake engine, embedder and fine-tuning for tests: every output is a hash of its input, in milliseconds.

Invariant: the same request gives the same completion on every machine, in any order; no torch, no vLLM.
"""

import asyncio
import hashlib
import json
import math
import os
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semievol_ray import folders
from semievol_ray.core.answers import AnswerFormat, Choice, Free, Labels, Number, Span
from semievol_ray.engines.base import Completion, EngineSpec, Request, ScoreRequest, Tokenizer
from semievol_ray.engines.rendering import before_stop
from semievol_ray.errors import ConfigError, EngineDiedError

_END = 256
HASH_DIMENSIONS = 64
_NO_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB (the scripted engine was told to say so)"


class ByteTokenizer:
    """One token a UTF-8 byte, 256 ends a turn; its template is `<role>content` and the end token."""

    eos_token_id: int | None = _END
    all_special_ids = (_END,)

    def apply_chat_template(self, conversation: Sequence[Mapping[str, str]], **kwargs: Any) -> str:
        turns = "".join(f"<{m['role']}>{m['content']}\x00" for m in conversation)
        return turns + ("<assistant>" if kwargs.get("add_generation_prompt") else "")

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:  # noqa: ARG002
        return [_END if byte == 0 else byte for byte in text.encode()]

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str:  # noqa: ARG002
        return bytes(i for i in token_ids if i < _END).decode(errors="replace")


class ScriptedGenerator:
    """Answers with the bracketed word of the question, `[plant]`, as often as its skill allows, else with a hashed one.

    Skill is 0.4 for a base model, more with demonstrations, and what `finetune` wrote for an adapter. A test may set
    `seconds_per_request` among the speed arguments (with `seconds_sigma` the mean of a log-normal draw by prompt, and
    max_num_seqs requests are served at once, the others wait), and among the numerics `break_every` (every n-th request
    of an engine kills it), `die_on` (words: a question that holds one ends the engine in its way), and
    `most_num_seqs` (an engine of more max_num_seqs has no memory to start).
    """

    def __init__(self, spec: EngineSpec) -> None:
        self.tokenizer: Tokenizer = ByteTokenizer()
        self.max_num_seqs = int(spec.speed.get("max_num_seqs", 64))
        if self.max_num_seqs > float(spec.numerics.get("most_num_seqs", "inf")):
            raise RuntimeError(_NO_MEMORY)
        self._die_on: Mapping[str, str] = spec.numerics.get("die_on", {})
        self._skills = {name: _skill_of(folder) for name, folder in spec.adapters.items()}
        self._merged = _skill_of(spec.merged) if spec.merged else None
        self._answers = _possible_answers(spec.answer_format)
        self._seconds = float(spec.speed.get("seconds_per_request", 0.0))
        self._sigma = float(spec.speed.get("seconds_sigma", 0.0))
        self._seats = asyncio.Semaphore(self.max_num_seqs)
        self._requests_left = float(spec.numerics.get("break_every", "inf"))

    async def generate(self, request: Request) -> Completion:
        prompt = self.tokenizer.decode(request.prompt_ids)
        await self._admit(prompt)
        trained = self._merged if self._merged is not None else self._skills.get(request.adapter or "")
        skill = 0.4 + 0.1 * min(prompt.count("<assistant>") - 1, 3) if trained is None else trained
        draw = _uniform(f"{trained is not None}{trained or 0}{request.sampling}{prompt}")
        told = _told(prompt)
        answer = told if told and draw < skill else self._answers[int(draw * 1e6) % len(self._answers)]
        text = before_stop(f"Answer: {answer}", request.sampling.stop)
        token_ids = tuple(self.tokenizer.encode(text))
        return Completion(text, token_ids, (-_nll(prompt, text),) * len(token_ids), "stop")

    async def score(self, request: ScoreRequest) -> tuple[float, ...]:
        """Log-probabilities with which `generate` would return these tokens; a right answer's are higher."""
        prompt = self.tokenizer.decode(request.prompt_ids)
        await self._admit(prompt)
        nll = _nll(prompt, self.tokenizer.decode(request.answer_ids))
        return (-nll,) * len(request.answer_ids)

    async def _admit(self, prompt: str) -> None:
        question = prompt.rsplit("<user>", 1)[-1] if self._die_on else ""
        for word in (word for word in self._die_on if word in question):
            await _die(self._die_on[word])
        self._requests_left -= 1
        if self._requests_left <= 0:
            raise EngineDiedError("the scripted engine was told to break here")
        if not self._sigma:
            await asyncio.sleep(self._seconds)
            return
        async with self._seats:
            await asyncio.sleep(service_seconds(prompt, self._seconds, self._sigma))

    def close(self) -> None:
        return None


_NEVER = asyncio.Event()  # held, for what waits on an event that nothing holds is collected as garbage


async def _die(how: str) -> None:
    """The ways in which engines end: an error of the engine, or of memory; the process is gone, or stands still."""
    match how:
        case "error":
            raise EngineDiedError("the scripted engine was told to end at this prompt")
        case "memory":
            raise RuntimeError(_NO_MEMORY)
        case "exit":
            os._exit(1)
        case "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "hang":
            await _NEVER.wait()
        case _:
            raise ConfigError(f"die_on {how!r}: error, memory, exit, freeze or hang was expected")


class HashEmbedder:
    """Unit vectors from hashed words: texts that share words are near each other."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.stack([_bag(text) for text in texts]) if texts else np.zeros((0, HASH_DIMENSIONS))
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def finetune(examples: Sequence[Mapping[str, Any]], out: str) -> dict[str, float]:
    """Write an adapter folder whose skill grows with the examples; returns the metrics of a fine-tuning."""
    from safetensors.numpy import save_file

    num = len(examples)
    digest = hashlib.sha256(json.dumps(sorted(e["id"] + e["answer"] for e in examples)).encode()).digest()
    weights = np.frombuffer(digest, dtype=np.uint8).astype(np.float32).reshape(4, 8) / 255
    tensors = {
        "base_model.model.scripted.lora_A.weight": weights,
        "base_model.model.scripted.lora_B.weight": weights.T.copy(),
    }
    skill = 0.5 + 0.45 * num / (num + 50)
    config = {"peft_type": "LORA", "r": 4, "scripted_skill": skill}
    with folders.local_folder(out) as folder:
        save_file(tensors, f"{folder}/adapter_model.safetensors")
        Path(folder, "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return {"train_loss": 1 - skill, "num_steps": float(num)}


def service_seconds(prompt: str, mean: float, sigma: float) -> float:
    """The seconds that a prompt is served for: log-normal over prompts with this mean, the same for the same prompt."""
    drawn = NormalDist().inv_cdf(min(max(_uniform("seconds" + prompt), 1e-9), 1 - 1e-9))
    return mean * math.exp(sigma * drawn - sigma**2 / 2)


def _skill_of(adapter: str) -> float:
    return float(json.loads((Path(adapter) / "adapter_config.json").read_text(encoding="utf-8"))["scripted_skill"])


def _possible_answers(answer_format: AnswerFormat) -> list[str]:
    match answer_format:
        case Labels(labels=labels):
            return list(labels)
        case Choice():
            return ["A", "B"]
        case Number() | Span() | Free():
            return [str(n) for n in range(10)]


def _told(prompt: str) -> str | None:
    """The bracketed word of the prompt's last question."""
    found: list[str] = re.findall(r"\[([^\[\]]+)\]", prompt.rsplit("<user>", 1)[-1])
    return found[0] if found else None


def _nll(prompt: str, text: str) -> float:
    """Nats per token of a text after a prompt: lower where it gives the bracketed word, by a hash otherwise."""
    right = text.removeprefix("Answer: ") == _told(prompt)
    return (0.1 if right else 0.6) + 0.4 * _uniform("nll" + prompt)


def _uniform(text: str) -> float:
    """A number in [0, 1) that only depends on the text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2**56


def _bag(text: str) -> NDArray[np.float64]:
    vector = np.full(HASH_DIMENSIONS, 1e-3)
    for word in re.findall(r"\w+", text.lower()):
        vector[int(_uniform(word) * HASH_DIMENSIONS)] += 1.0
    return vector
