"""How a fine-tuning on Ray Train ends: its outcome, told once, and starts that lead nowhere."""

import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from benchmarks.kill_training_model import TASK, spec_in, write_model
from semievol_ray import schema, storage
from semievol_ray.config import EarlyStoppingConfig
from semievol_ray.engines import checkpoints
from semievol_ray.engines.finetune import Surroundings
from semievol_ray.engines.leaving import leave_notice
from semievol_ray.errors import (
    AdapterError,
    DataError,
    DeadlineReached,
    PlacementError,
    RunInUseError,
    RunStopped,
    SemievolError,
)
from semievol_ray.lease import Claim, Lease
from semievol_ray.stages import raytrain, trainworker
from semievol_ray.tasks import Task


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


def _failing(patch: pytest.MonkeyPatch, folder: Path, error: Exception, num_workers: int) -> None:
    """One worker of so many meets an error."""

    def finetune(*_: Any) -> dict[str, float]:
        raise error

    context = SimpleNamespace(get_world_rank=lambda: 1, get_world_size=lambda: num_workers)
    patch.setattr("ray.train.get_context", lambda: context)
    patch.setattr(trainworker, "finetune", finetune)
    spec = replace(spec_in(folder, folder / "no-model", workers=num_workers, zero_stage=2), on_gpu=True)
    trainworker.train_worker({"spec": spec, "num_threads": 1})


def test_error_of_one_worker_of_several_is_its_outcome_and_is_raised_for_the_others_sake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PlacementError, match="too large"):
        _failing(monkeypatch, tmp_path, PlacementError("too large"), 2)
    with pytest.raises(PlacementError, match="too large"):
        trainworker.outcome(f"{tmp_path}/checkpoints")
    _failing(monkeypatch, tmp_path / "alone", PlacementError("too large"), 1)
    with pytest.raises(PlacementError, match="too large"):
        trainworker.outcome(f"{tmp_path}/alone/checkpoints")


@pytest.mark.parametrize("error", [DeadlineReached("late"), RunStopped("it was told to stop")])
def test_workers_that_agreed_to_leave_need_no_new_start(
    error: SemievolError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_notice(f"{tmp_path}/checkpoints")
    _failing(monkeypatch, tmp_path, error, 2)
    with pytest.raises(type(error), match=str(error)):
        trainworker.outcome(f"{tmp_path}/checkpoints")


@pytest.mark.parametrize(("offload", "threads"), [("optimizer", 6), ("none", None)])
def test_worker_on_a_gpu_uses_its_cpus_where_they_take_the_optimizers_steps(
    offload: str, threads: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = list[int | None]()

    def finetune(_: Any, around: Surroundings) -> dict[str, float]:
        given.append(around.num_threads)
        return {}

    context = SimpleNamespace(get_world_rank=lambda: 1, get_world_size=lambda: 2)
    monkeypatch.setattr("ray.train.get_context", lambda: context)
    monkeypatch.setattr(trainworker, "finetune", finetune)
    spec = spec_in(tmp_path, tmp_path / "no-model", workers=2, zero_stage=2)
    spec = replace(spec, on_gpu=True, speed=spec.speed.model_copy(update={"offload": offload}))
    trainworker.train_worker({"spec": spec, "num_threads": 6})
    assert given == [threads]


class OneCannotRead(Task):
    """A task with which the second worker alone meets an error."""

    def render_question(self, question: str, options: Any) -> str:
        import torch

        if torch.distributed.is_initialized() and torch.distributed.get_rank() == 1 and "validation" in question:
            raise DataError("one worker alone cannot read this")
        return super().render_question(question, options)

    def __reduce__(self) -> tuple[Any, ...]:
        return _one_cannot_read, ()


@pytest.fixture
def sent_along() -> Iterator[None]:
    """Workers get what this file defines, which they cannot import."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def _one_cannot_read() -> Task:
    return OneCannotRead(**{name: getattr(TASK, name) for name in TASK.__dataclass_fields__})


@pytest.mark.slow
@pytest.mark.usefixtures("small_ray", "sent_along")
def test_error_of_one_worker_ends_the_others_in_seconds(tmp_path: Path) -> None:
    spec = spec_in(tmp_path / "run", write_model(tmp_path / "model"), workers=2, zero_stage=2)
    path = str(tmp_path / "validation.parquet")
    row = {"id": "v", "question": "of validation", "options": None, "group": None, "answer": "plant"}
    storage.create_table(path, pa.Table.from_pylist([row], schema=schema.LABELED))
    train = spec.train.model_copy(update={"early_stopping": EarlyStoppingConfig()})
    began = time.monotonic()
    with pytest.raises(DataError, match="one worker alone cannot read this"):
        raytrain.fit(replace(spec, task=_one_cannot_read(), train=train, validation=(path,)), 2, 1.0, 0.0)
    assert time.monotonic() - began < 120
