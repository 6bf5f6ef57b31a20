"""The training benchmark compares what it says: the same step of arms that work one at a time, and learn the same."""

import json
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from benchmarks import train, train_data
from benchmarks.train_gpu import deepspeeds_estimate, mfu
from benchmarks.train_turns import ratios, spread, take_turns
from semievol_ray.config import SpeedConfig, TrainConfig
from semievol_ray.engines.finetune import FinetuneSpec
from semievol_ray.engines.memory import ModelShape, needs, plan_of
from tests.engines.conftest import build_model

EIGHT_BILLION = ModelShape(8_030_261_248, 128256 * 4096, 32, 4096, 14336, 1024, 128256, (("q_proj", 4096, 4096),))


def slow_or_fast(name: str, spec: Any, _threads: int, _port: int, _log: str, connection: Connection) -> None:
    """An arm of three steps; `spec` is the folder where all arms note when they work."""
    for number in range(3):
        connection.send(10.0 * number**2)
        connection.recv()
        with Path(spec, "order").open("a") as file:
            file.write(f"{name} begins\n")
        time.sleep(0.2 if name == "slow" else 0.05)
        with Path(spec, "order").open("a") as file:
            file.write(f"{name} ends\n")
    connection.send({"losses": [1.0], "peak_mib": 1.0, "gpu_bytes": 0})


def dies(_name: str, _spec: Any, _threads: int, _port: int, log: str, _connection: Connection) -> None:
    Path(log).write_text("no such model")


def test_arms_work_one_at_a_time_and_their_seconds_are_their_own(tmp_path: Path) -> None:
    given: Any = dict.fromkeys(("slow", "fast"), str(tmp_path))
    arms = take_turns(slow_or_fast, given, 1, tmp_path)
    lines = (tmp_path / "order").read_text().split("\n")[:-1]
    assert all(begin.replace("begins", "ends") == end for begin, end in zip(lines[::2], lines[1::2], strict=True))
    begun = [line.split()[0] for line in lines[::2]]
    assert begun == ["slow", "fast", "fast", "slow", "slow", "fast"]  # who begins moves on
    assert len(arms["slow"].seconds) == len(arms["fast"].seconds) == 2
    assert min(arms["slow"].seconds) >= 0.2
    assert arms["slow"].cpu_seconds == (10.0, 30.0)
    assert min(ratios(arms["fast"].seconds, arms["slow"].seconds, skip=0)) > 1


def test_arm_that_dies_ends_the_measurement_with_what_it_said(tmp_path: Path) -> None:
    given: Any = {"broken": None}
    with pytest.raises(RuntimeError, match="'broken' ended: no such model"):
        take_turns(dies, given, 1, tmp_path)


def test_ratio_is_of_the_same_steps_without_the_first_and_its_spread_in_quartiles() -> None:
    assert ratios((9.0, 1.0, 2.0), (1.0, 2.0, 2.0)) == [2.0, 1.0]
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == (3.0, 2.0, 4.0)
    assert spread([2.0]) == (2.0, 2.0, 2.0)


def _spec(folder: Path, model: str = "", **changes: Any) -> FinetuneSpec:
    train_data.write_examples(str(folder / "examples.parquet"), 16)
    given: dict[str, Any] = {
        "model_path": model, "examples": (str(folder / "examples.parquet"),), "task": train_data.TASK,
        "train": TrainConfig(max_steps=2), "speed": SpeedConfig(), "dtype": "bfloat16", "max_model_len": 2048,
        "template_date": "2024-07-26", "seed": 0, "on_gpu": True, "out": str(folder / "out"),
        "curve": str(folder / "curve.jsonl"), **changes,
    }  # fmt: skip
    return FinetuneSpec(**given)


def test_estimate_of_deepspeed_is_of_the_stage_and_near_what_is_reckoned(tmp_path: Path) -> None:
    full = TrainConfig(method="full")
    for number, speed in enumerate((SpeedConfig(zero_stage=2), SpeedConfig(zero_stage=3, offload="all"))):
        (tmp_path / str(number)).mkdir()
        spec = _spec(tmp_path / str(number), train=full, speed=speed)
        reckoned = needs(EIGHT_BILLION, plan_of(EIGHT_BILLION, full, speed, "bfloat16")).states
        assert deepspeeds_estimate(spec, EIGHT_BILLION) == pytest.approx(reckoned, rel=1e-6)


def test_mfu_is_the_rate_over_what_the_device_could_do(tmp_path: Path) -> None:
    model = str(build_model(tmp_path / "model"))
    spec = _spec(tmp_path, model)
    assert mfu(spec, EIGHT_BILLION, 1000.0, None) is None
    one, two = (mfu(spec, EIGHT_BILLION, rate, 1e12) for rate in (1000.0, 2000.0))
    assert one is not None
    assert two == pytest.approx(2 * one)
    assert one > 1000 * 4 * 4096 * 4096 / 1e12  # the matrix alone, forward and backward


def test_rows_are_as_long_as_fpbs(tmp_path: Path) -> None:
    from semievol_ray.engines.finetune import read_examples

    train_data.write_examples(str(tmp_path / "examples.parquet"), 2000)
    words = sorted(len(row["question"].split()) for row in read_examples((str(tmp_path / "examples.parquet"),)))
    assert [words[0], words[-1]] == pytest.approx([2, 81], abs=3)
    assert words[1000] == pytest.approx(21, abs=2)


@pytest.mark.slow
def test_quick_benchmark_of_a_tiny_model_finds_that_all_arms_learn_the_same(tmp_path: Path) -> None:
    model, out = str(build_model(tmp_path / "model")), tmp_path / "out.json"
    assert train.main(["--quick", "--only", "t", "--model", model, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    apart = {name: value for name, value in found["metrics"].items() if name.startswith("largest difference")}
    assert len(apart) == 4
    assert max(apart.values()) < 1e-3
    assert next(iter(found["targets"])).startswith("ours, padded to the better of the two")
