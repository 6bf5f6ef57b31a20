"""How a fine-tuning on Ray Train ends: its outcome, told once, and starts that lead nowhere."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.kill_training_model import spec_in
from semievol_ray import storage
from semievol_ray.engines import checkpoints
from semievol_ray.errors import AdapterError, RunInUseError, RunStopped
from semievol_ray.lease import Claim, Lease
from semievol_ray.stages import raytrain, trainworker


def test_outcome_is_the_metrics_of_the_first_worker_that_ended(tmp_path: Path) -> None:
    trainworker.end(str(tmp_path), {"metrics": {"train_loss": 0.5}})
    trainworker.end(str(tmp_path), {"error": "RunStopped", "text": "too late"})
    assert trainworker.outcome(str(tmp_path)) == {"train_loss": 0.5}


@pytest.mark.parametrize(("name", "kind"), [("AdapterError", AdapterError), ("KeyError", RunStopped)])
def test_outcome_of_a_failed_fine_tuning_is_raised_as_what_it_was(
    tmp_path: Path, name: str, kind: type[Exception]
) -> None:
    trainworker.end(str(tmp_path), {"error": name, "text": "tensor a is all zero"})
    with pytest.raises(kind, match="tensor a is all zero"):
        trainworker.outcome(str(tmp_path))


def test_third_start_without_a_new_checkpoint_is_the_last_and_says_what_was_seen(tmp_path: Path) -> None:
    folder = str(tmp_path)
    checkpoints.commit(folder, 4, {"identity": {}, "files": {}})
    for _ in range(trainworker.MOST_TRIES):
        trainworker.begin_try(folder)
    storage.append_line(f"{folder}/{trainworker.TRIES_FILE}", '{"failed": "CUDA error: ECC"}')
    with pytest.raises(RunStopped, match=r"ended 3 times after step 4 .*: CUDA error: ECC"):
        trainworker.begin_try(folder)
    checkpoints.commit(folder, 8, {"identity": {}, "files": {}})
    trainworker.begin_try(folder)


def test_worker_of_a_driver_that_was_taken_over_stores_nothing_and_is_not_started_again(tmp_path: Path) -> None:
    spec = spec_in(tmp_path, tmp_path / "no-model", workers=1, zero_stage=2)
    spec = replace(spec, claim=Claim(f"{tmp_path}/run", 1, "mine"))
    before = storage.sizes(str(tmp_path))
    trainworker.train_worker({"spec": spec, "num_threads": 1})
    assert storage.sizes(str(tmp_path)) == before


class _Endless:
    """A Ray Train that trains until it is told that it may end."""

    def __init__(self) -> None:
        self.may_end = threading.Event()

    def fit(self) -> None:
        self.may_end.wait(60)


def test_fine_tuning_of_a_driver_that_was_taken_over_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, trainer = spec_in(tmp_path, tmp_path / "no-model", workers=1, zero_stage=2), _Endless()
    monkeypatch.setattr(raytrain, "_trainer", lambda *_: trainer)
    monkeypatch.setattr(raytrain, "CLAIM_SECONDS", 0.1)
    lease = Lease.take(f"{tmp_path}/run")
    spec = replace(spec, claim=lease.claim)
    takeover = threading.Timer(0.5, lambda: storage.write(f"{tmp_path}/run/lease/000002.json", b"{}"))
    takeover.start()
    began = time.monotonic()
    with pytest.raises(RunInUseError, match="taken over"):
        raytrain.fit(spec, 1, 1.0, 0.0)
    assert 0.5 <= time.monotonic() - began < 10
    trainer.may_end.set()
    takeover.join()
    lease.close()


def test_outcome_of_another_drivers_fine_tuning_is_not_taken_for_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_in(tmp_path, tmp_path / "no-model", workers=1, zero_stage=2)
    lease = Lease.take(f"{tmp_path}/run")
    spec = replace(spec, claim=lease.claim)

    class Ends:
        def fit(self) -> None:
            storage.write(f"{tmp_path}/run/lease/000002.json", b"{}")
            trainworker.end(spec.checkpoints, {"metrics": {"train_loss": 0.5}})

    monkeypatch.setattr(raytrain, "_trainer", lambda *_: Ends())
    with pytest.raises(RunInUseError, match="taken over"):
        raytrain.fit(spec, 1, 1.0, 0.0)
    lease.close()
