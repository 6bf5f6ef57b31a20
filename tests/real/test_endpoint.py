"""The endpoint client against `vllm serve`, and against what transformers computes from the same weights."""

import asyncio
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from semievol_ray.core.answers import Labels
from semievol_ray.core.confidence import mean_nll
from semievol_ray.core.prompts import Demonstration, question_messages
from semievol_ray.engines.base import Completion, EngineSpec, Request, Sampling
from semievol_ray.engines.opening import open_generator
from semievol_ray.engines.rendering import load_tokenizer, prompt_ids
from semievol_ray.errors import ConfigError
from semievol_ray.methodconfig import EndpointConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

KEY = "sk-local-only"
START_SECONDS = 200
H_TOLERANCE = 2e-3
INSTRUCTION = "Answer with one short sentence."
ASKED = [
    question_messages(INSTRUCTION, "What is an oak?", ()),
    question_messages(INSTRUCTION, "What is a naïve 🙂 person?", ()),
    question_messages(INSTRUCTION, "What is bread?", [Demonstration("What is a hammer?", "A tool.")]),
]


@pytest.fixture(scope="module")
def url(smollm2: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of SmolLM2 on a free port of this machine; what it says goes to a file."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", smollm2]
    command += ["--served-model-name", "small", "--host", "127.0.0.1", "--port", str(port), "--api-key", KEY]
    command += ["--dtype", "float32", "--max-model-len", "256", "--max-num-seqs", "4", "--enforce-eager"]
    command += ["--generation-config", "vllm", "--block-size", "32"]
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "2"}
    settings |= {"VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_LOGGING_LEVEL": "ERROR", "CUDA_VISIBLE_DEVICES": ""}
    with log.open("w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **settings})
    try:
        _wait(server, port, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(30)


def _wait(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and server.poll() is None:
        try:
            with opener.open(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
                if reply.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"the server did not start: {log.read_text()[-2000:]}")


def _completions(spec: EngineSpec, requests: list[Request]) -> list[Completion]:
    async def ask() -> list[Completion]:
        engine = open_generator(spec)
        try:
            return list(await asyncio.gather(*map(engine.generate, requests)))
        finally:
            engine.close()
            await asyncio.sleep(0.01)  # the connections close

    return asyncio.run(ask())


def _spec(kind: Literal["openai", "transformers"], **more: Any) -> EngineSpec:
    given: dict[str, Any] = {
        "model_path": "",
        "dtype": "float32",
        "max_model_len": 256,
        "max_lora_rank": 16,
        "seed": 0,
    } | more
    return EngineSpec(
        kind=kind, merged=None, adapters={}, num_threads=2, on_gpu=False, answer_format=Labels(("a", "b")), **given
    )


def test_endpoint_of_vllm_with_a_wrong_key_is_a_config_error(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_KEY", "sk-wrong")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    endpoint = EndpointConfig(url=url, api_key_env="LOCAL_KEY")
    with pytest.raises(ConfigError, match="status 401") as raised:
        _completions(_spec("openai", model="small", endpoint=endpoint), [Request((), Sampling(0.0, 4), None, ASKED[0])])
    assert "sk-wrong" not in str(raised.value)


def test_endpoint_of_vllm_gives_text_confidence_and_counts_of_the_model_it_serves(
    url: str, smollm2: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    endpoint = EndpointConfig(url=url, api_key_env="LOCAL_KEY", max_retries=0)
    sampling = Sampling(0.0, 24)
    theirs = _completions(
        _spec("openai", model="small", endpoint=endpoint), [Request((), sampling, None, m) for m in ASKED]
    )
    tokenizer = load_tokenizer(smollm2)
    ids = [tuple(prompt_ids(tokenizer, m, "2024-07-26")) for m in ASKED]
    ours = _completions(_spec("transformers", model="small", model_path=smollm2), [Request(i, sampling) for i in ids])
    for mine, got, asked in zip(ours, theirs, ids, strict=True):
        assert (got.text, got.finish_reason) == (mine.text, mine.finish_reason)
        assert got.token_logprobs == pytest.approx(mine.token_logprobs, abs=H_TOLERANCE)
        assert mean_nll(got.token_logprobs) == pytest.approx(mean_nll(mine.token_logprobs), abs=H_TOLERANCE)
        assert "".join(got.token_texts or ()) == got.text
        assert got.num_prompt_tokens == len(asked)
        assert got.num_tokens == len(mine.token_ids) + (mine.finish_reason == "stop")  # a server counts the end of turn
    assert {c.finish_reason for c in theirs} == {"stop", "length"}
