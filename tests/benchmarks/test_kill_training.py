"""A worker that is killed while it fine-tunes costs steps, and nothing of what is learned."""

import json
import os
import signal
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import kill_training
from benchmarks.kill_training import Outcome, Strike, strike_of, struck, undisturbed
from benchmarks.kill_training_model import NUM_STEPS, SAVE_STEPS, spec_in, write_model
from semievol_ray import storage
from semievol_ray.engines import checkpoints
from semievol_ray.stages.train import train

GOOD = Outcome((7, 20), 3, 1e-6, 1e-7, 28, 0, 12.0)


@pytest.mark.slow
@pytest.mark.usefixtures("small_ray")
def test_adapter_of_a_fine_tuning_that_was_interrupted_and_whose_worker_was_killed_is_the_undisturbed_ones(
    tmp_path: Path,
) -> None:
    model = write_model(tmp_path / "model")
    calm = undisturbed(tmp_path / "calm", model)
    spec = spec_in(tmp_path / "struck", model, workers=1, zero_stage=3)
    before = signal.getsignal(signal.SIGINT)
    threading.Thread(target=_interrupt_at, args=(spec.curve, SAVE_STEPS + 1), daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        train(spec, 1, 1.0, 0.0, lambda _: None, lambda _: None)
    assert signal.getsignal(signal.SIGINT) is before
    saved = checkpoints.committed_steps(spec.checkpoints)[0]
    assert saved > SAVE_STEPS
    assert saved == len(storage.lines(spec.curve)), "nothing was learned that is not saved"

    found = struck(Strike(0, 0, 1, 3, (min(saved + 2, NUM_STEPS - 2),), (0,)), tmp_path / "struck", model, calm)
    assert found.is_good, found
    assert found.at_steps[0] > saved


def _interrupt_at(curve: str, step: int) -> None:
    """Ctrl-C for this process once a step stands in the loss curve."""
    while len(storage.lines(curve)) < step:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)


def test_strikes_of_a_seed_are_the_same_each_time_and_of_every_kind() -> None:
    strikes = [strike_of(0, number) for number in range(20)]
    assert strikes == [strike_of(0, number) for number in range(20)]
    assert {s.workers for s in strikes} == {1, 2}
    assert {s.zero_stage for s in strikes} == {0, 1, 2, 3}
    assert all(0 < step < NUM_STEPS - 1 for s in strikes for step in s.steps)
    assert all(victim < s.workers for s in strikes for victim in s.victims)


@pytest.mark.parametrize(
    "fault",
    [
        {"at_steps": ()},
        {"num_tensors": 0},
        {"num_zero_tensors": 1},
        {"largest_weight_difference": 1e-3},
        {"largest_loss_difference": 1e-3},
        {"wrong": "RunStopped"},
    ],
)
def test_outcome_with_any_fault_is_not_good(fault: dict[str, Any]) -> None:
    assert GOOD.is_good
    assert not replace(GOOD, **fault).is_good


def test_results_file_counts_what_was_not_as_it_should_be(tmp_path: Path) -> None:
    bad = replace(GOOD, num_zero_tensors=2, largest_weight_difference=0.5)
    runs = [{"commit": "a", **asdict(strike_of(0, n)), **asdict(outcome)} for n, outcome in enumerate((GOOD, bad))]
    kill_training.write(tmp_path / "out.json", "command", runs)
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["runs"] == json.loads(json.dumps(runs))
    assert found["targets"]["empty or zero adapters"] == {"target": 0, "value": 1, "met": False}
    assert found["targets"]["wrong ends"]["met"]
    assert found["metrics"]["kills"] == 4
