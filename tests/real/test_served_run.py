"""`semievol serve` as a user runs it, on real vLLM: the command, the `openai` client, /v1/label, Ctrl-C."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from semievol_ray import open_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KEY = "sk-of-this-real-test-0123456789"
START_SECONDS, STOP_SECONDS = 200, 60
H_TOLERANCE = 2e-3
NUM_LABELLED = 24


@pytest.fixture(scope="module")
def url(finished: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The finished round, served by the command; at its end Ctrl-C, and its words and logs without the key."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = tmp_path_factory.mktemp("serve") / "said"
    command = [sys.executable, "-m", "semievol_ray.cli", "serve", str(finished[0]), "--port", str(port)]
    with said.open("w") as out, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        server = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, "SEMIEVOL_API_KEY": KEY})
        try:
            _wait(server, said)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.send_signal(signal.SIGINT)
            assert server.wait(STOP_SECONDS) == 130
    assert "no dev fold" in said.read_text()
    logs = [said, *(finished[0] / "logs").iterdir()]
    assert [path for path in logs if KEY in path.read_text(errors="replace")] == []


def _wait(server: "subprocess.Popen[bytes]", said: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and server.poll() is None:
        if "serving at" in said.read_text():
            return
        time.sleep(0.2)
    pytest.fail(f"the server did not start: {said.read_text()[-2000:]}")


def test_real_models_chat_stream_and_refuse_as_the_client_expects(url: str) -> None:
    to = openai.OpenAI(base_url=url, api_key=KEY, timeout=60, max_retries=0)
    names = [model.id for model in to.models.list()]
    assert names == ["round-base", "round-round-0", "round-round-1"]
    messages: Any = [{"role": "user", "content": "What is an oak? One sentence."}]
    told = {}
    for name in names:
        reply = to.chat.completions.create(model=name, messages=messages, max_tokens=12, temperature=0)
        told[name] = reply.choices[0].message.content
    assert told["round-round-1"] != told["round-base"]
    chunks = to.chat.completions.create(
        model="round-base", messages=messages, max_tokens=12, temperature=0, stream=True
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == told["round-base"]
    left = to.chat.completions.create(model="round-base", messages=messages, max_tokens=400, stream=True)
    next(iter(left))
    left.close()
    with pytest.raises(openai.BadRequestError):
        to.chat.completions.create(model="round-base", messages=[{"role": "user", "content": "very " * 200_000}])
    with pytest.raises(openai.NotFoundError):
        to.chat.completions.create(model="round-round-9", messages=messages)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=url, api_key="sk-wrong").models.list()


def test_real_label_answers_as_the_runs_own_evaluation_did(finished: tuple[Path, str], url: str) -> None:
    run = open_run(str(finished[0]))
    rows = run.table("data/test").to_pylist()[:NUM_LABELLED]
    predicted = {row["id"]: row for row in run.table("rounds/0001/evaluate").to_pylist()}
    with httpx.Client(headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as to:
        for row in rows:
            found = to.post(f"{url}/label", json={"question": row["question"]}).json()
            evaluated = predicted[found["id"]]
            assert found["label"] == evaluated["answer"]
            assert found["passes"] is None
            if found["label"] is not None and evaluated["finish_reason"] == "stop":
                assert found["confidence"] == pytest.approx(evaluated["mean_nll"], abs=H_TOLERANCE)
