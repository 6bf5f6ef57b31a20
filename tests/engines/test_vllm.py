"""What vLLM is asked for, and what is made of its outputs; the engine itself is in tests/real."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest

from semievol_ray.core.answers import Labels
from semievol_ray.engines.base import EngineSpec, Sampling
from semievol_ray.engines.scripted import ByteTokenizer
from semievol_ray.engines.vllm import completion_of, engine_arguments


@pytest.fixture
def spec() -> EngineSpec:
    return EngineSpec(
        "vllm", "tiny", "tiny", None, {}, "float32", 256, 4, 3, 1, False, Labels(("a", "b")), {}, {"max_num_seqs": 4}
    )


def test_engine_of_two_workers_is_left_to_choose_what_runs_them(spec: EngineSpec) -> None:
    two = replace(spec, speed={"tensor_parallel_size": 2})
    assert engine_arguments(spec)["distributed_executor_backend"] == "uni"
    assert "distributed_executor_backend" not in engine_arguments(two)


@dataclass(frozen=True)
class Output:
    """What vLLM gives for one answer of the byte tokenizer; token i has log-probability -(i + 1)."""

    text: str
    said: str
    stop_reason: str | int | None
    finish_reason: str = "stop"

    @property
    def token_ids(self) -> list[int]:
        return ByteTokenizer().encode(self.said)

    @property
    def logprobs(self) -> list[dict[int, SimpleNamespace]]:
        return [{token: SimpleNamespace(logprob=-float(i + 1))} for i, token in enumerate(self.token_ids)]


@pytest.mark.parametrize(
    ("output", "kept"),
    [
        (Output("food", "food\x00", 256), 4),
        (Output("food", "food\n\n", "\n\n"), 4),
        (Output("food", "food", None, "length"), 4),
        (Output("", "\n\n", "\n\n"), 0),
    ],
    ids=["end of turn", "stop string", "cut off", "stop string at once"],
)
def test_what_stopped_an_answer_is_no_part_of_it(output: Output, kept: int) -> None:
    found = completion_of(output, Sampling(1.0, 8), ByteTokenizer())
    assert (found.text, found.token_ids) == (output.text, tuple(b"food"[:kept]))
    assert found.token_logprobs == tuple(-float(i + 1) for i in range(kept))
    assert found.finish_reason == output.finish_reason
    assert completion_of(output, Sampling(1.0, 8, choices=("food",)), ByteTokenizer()).token_logprobs == ()
