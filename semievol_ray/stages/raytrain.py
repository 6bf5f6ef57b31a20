"""Ray Train around a fine-tuning: its workers, their deaths, and the driver's own end.

Invariant: a worker's death costs the steps since the last checkpoint; a driver that is interrupted has the workers save
before it goes; only the main thread's signals are those that the driver set itself.
"""

import os
import threading
import time
from typing import Any

from semievol_ray import objectstore, storage
from semievol_ray.engines.finetune import FinetuneSpec
from semievol_ray.engines.leaving import leave_notice, withdraw_notice
from semievol_ray.errors import RunStopped
from semievol_ray.stages.trainworker import OUTCOME_FILE, TRIES_FILE, arm, outcome, train_worker

SNAPSHOT_FILE = "checkpoint_manager_snapshot.json"
LOOK_SECONDS, CLAIM_SECONDS = 0.2, 5.0


def fit(spec: FinetuneSpec, num_workers: int, cpus: float, gpus: float) -> dict[str, float]:
    """Fine-tune from the last checkpoint on; metrics. Raises what the fine-tuning ended with.

    After an interrupt the workers have `speed.grace_seconds` to save; a second one does not wait for them. Raises
    RunInUseError soon after another driver took the run over; the workers see it for themselves, and leave.
    """
    for name in (OUTCOME_FILE, SNAPSHOT_FILE):
        storage.remove(f"{spec.checkpoints}/{name}")
    storage.remove_lines(f"{spec.checkpoints}/{TRIES_FILE}")
    withdraw_notice(spec.checkpoints)
    fitting = _Fitting(_trainer(spec, num_workers, cpus, gpus))
    fitting.start()
    try:
        _wait(fitting, spec)
    except KeyboardInterrupt:
        if not spec.is_lost():  # else the notice would be to another driver's workers
            leave_notice(spec.checkpoints)
            fitting.over.wait(spec.speed.grace_seconds)
        raise
    if fitting.failed is not None and not storage.exists(f"{spec.checkpoints}/{OUTCOME_FILE}"):
        raise RunStopped(
            f"fine-tuning failed: {_root_cause(fitting.failed)}. Running the same command again goes on from the last "
            "checkpoint."
        ) from fitting.failed
    return outcome(spec.checkpoints)


def _wait(fitting: "_Fitting", spec: FinetuneSpec) -> None:
    """Until the fine-tuning is over. Raises RunInUseError when another driver has the run, its end included."""
    looked = time.monotonic()
    is_over = False
    while not is_over:
        is_over = fitting.over.wait(LOOK_SECONDS)
        if is_over or time.monotonic() - looked >= CLAIM_SECONDS:
            spec.require_claim()
            looked = time.monotonic()


class _Fitting(threading.Thread):
    """`trainer.fit()` in a thread of its own: in the main one it would take Ctrl-C over for good.

    `over` tells of its end: a `join` that Ctrl-C interrupts takes the thread for ended (Python 3.11, bpo-45274).
    """

    def __init__(self, trainer: Any) -> None:
        super().__init__(name="ray-train", daemon=True)
        self._trainer = trainer
        self.failed: Exception | None = None
        self.over = threading.Event()

    def run(self) -> None:
        try:
            self._trainer.fit()
        except Exception as error:  # told by whoever waits for it
            self.failed = error
        finally:
            self.over.set()


def _trainer(spec: FinetuneSpec, num_workers: int, cpus: float, gpus: float) -> Any:
    """Ray Train, whose own notes lie beside the checkpoints, where every node sees them."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    folder, _, name = spec.checkpoints.rpartition("/")
    remote = storage.is_remote(folder)
    return TorchTrainer(
        train_worker,
        train_loop_config={"spec": spec, "num_threads": max(1, int(cpus))},
        torch_config=_torch_config("nccl" if spec.on_gpu else "gloo", spec.speed.grace_seconds),
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": cpus} | ({"GPU": gpus} if gpus else {}),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=objectstore.key(folder) if remote else os.path.abspath(folder),  # noqa: PTH100
            storage_filesystem=objectstore.arrow_filesystem(folder) if remote else None,
            failure_config=FailureConfig(max_failures=-1),
            checkpoint_config=CheckpointConfig(num_to_keep=None),
            worker_runtime_env=dict(spec.speed.runtime_env.train),  # type: ignore[call-arg]
        ),
    )


def _torch_config(backend: str, grace_seconds: float) -> Any:
    """TorchConfig whose workers take SIGTERM as a notice; only their main thread, where `execute` runs, can."""
    from ray.train.torch import TorchConfig

    base: Any = TorchConfig().backend_cls

    class NoticedBackend(base):  # type: ignore[misc]
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            super().on_start(worker_group, backend_config)
            worker_group.execute(arm, grace_seconds)

    class NoticedConfig(TorchConfig):
        @property
        def backend_cls(self) -> Any:
            return NoticedBackend

    return NoticedConfig(backend=backend)


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
