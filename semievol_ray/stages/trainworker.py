"""What runs in each Ray Train worker: a fine-tuning from its last checkpoint on, and how it ended.

Invariant: an end that another try would meet again is stored as the outcome; whatever else ends a worker is for Ray
Train to make good, from the last checkpoint, as long as some step was got further. No worker waits for one that ended.
Once another driver has the run nothing is stored, and there is nothing to make good.
"""

import json
import os
import threading
from dataclasses import dataclass, field
from typing import Any

from semievol_ray import errors, objectstore, storage
from semievol_ray.engines import checkpoints
from semievol_ray.engines.finetune import FinetuneSpec, Surroundings, finetune
from semievol_ray.engines.keeping import MachineLeavesError
from semievol_ray.engines.leaving import is_noticed
from semievol_ray.errors import DeadlineReached, RunStopped, SemievolError, StorageError
from semievol_ray.records import encode, json_lines, read_json
from semievol_ray.stages.departure import Departure

OUTCOME_FILE, TRIES_FILE = "outcome.json", "tries.jsonl"
MOST_TRIES = 3
"""Starts from one step, none of which came to the next checkpoint."""
_CERTAIN = (TypeError, ValueError, ImportError, AttributeError, KeyError)
"""Errors that the next start would meet again."""


@dataclass
class Presence:
    """Whether this process trains, and how it hears that its machine goes away."""

    at_work: threading.Event = field(default_factory=threading.Event)
    departure: Departure | None = None

    def is_machine_leaving(self) -> bool:
        return self.departure is not None and self.departure.begun.is_set()


HERE = Presence()
"""This process's: a worker's signal is taken in its main thread, and its training runs in another."""


def arm(grace_seconds: float) -> None:
    """Let SIGTERM be a notice: the training saves after its step and leaves, within the grace period."""
    HERE.departure = Departure(grace_seconds, lambda: int(HERE.at_work.is_set()), lambda: None)
    HERE.departure.arm()


def train_worker(config: dict[str, Any]) -> None:
    """A fine-tuning, or nothing where its outcome is known; raises what Ray Train is to make good.

    An error may be one worker's alone, and the others wait for it in a collective operation until that times out, after
    half an hour: raised, it has Ray Train end them all and start them again, to find the outcome.
    """
    spec: FinetuneSpec = config["spec"]
    if spec.is_lost() or storage.exists(f"{spec.checkpoints}/{OUTCOME_FILE}"):
        return
    if not spec.on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
        os.environ["OMP_NUM_THREADS"] = str(config["num_threads"])
    import ray.train

    context = ray.train.get_context()
    first = context.get_world_rank() == 0
    works_on_cpus = not spec.on_gpu or spec.speed.offload != "none"
    around = Surroundings(config["num_threads"] if works_on_cpus else None, report, HERE.is_machine_leaving)
    HERE.at_work.set()
    try:
        if first:
            begin_try(spec.checkpoints)
        metrics = finetune(spec, around)
        if first and not spec.is_lost():
            end(spec.checkpoints, {"metrics": metrics})
    except MachineLeavesError:
        raise
    except Exception as error:
        if spec.is_lost():
            return
        if not isinstance(error, _CERTAIN if isinstance(error, StorageError) else (SemievolError, *_CERTAIN)):
            storage.append_line(f"{spec.checkpoints}/{TRIES_FILE}", json.dumps({"failed": _last_line(error)}))
            raise
        end(spec.checkpoints, {"error": type(error).__name__, "text": _told(error)})
        if context.get_world_size() > 1 and not _is_everyones(error, spec.checkpoints):
            raise
    finally:
        HERE.at_work.clear()


def report(path: str, step: int) -> None:
    """Tell Ray Train of a checkpoint that is committed; all workers do."""
    import ray.train
    from ray.train import Checkpoint
    from ray.train.v2.api.report_config import CheckpointUploadMode

    context = ray.train.get_context()
    made = None
    if context.get_world_rank() == 0:
        files = context.get_storage().storage_filesystem
        made = Checkpoint(objectstore.key(path) if storage.is_remote(path) else path, filesystem=files)
    ray.train.report({"step": step}, checkpoint=made, checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD)


def end(folder: str, outcome: dict[str, Any]) -> None:
    """Store how a fine-tuning ended; of several workers the first one's word holds."""
    storage.create(f"{folder}/{OUTCOME_FILE}", encode(outcome))


def outcome(folder: str) -> dict[str, float]:
    """The metrics of a fine-tuning that ended well. Raises the error that it ended with."""
    found = read_json(f"{folder}/{OUTCOME_FILE}")
    if "error" in found:
        kind = getattr(errors, str(found["error"]), RunStopped)
        raise kind(found["text"]) if issubclass(kind, SemievolError) else RunStopped(found["text"])
    return dict(found["metrics"])


def begin_try(folder: str) -> None:
    """Note a start, before it happens. Raises RunStopped when so many from the same step came to no checkpoint."""
    step = max(checkpoints.committed_steps(folder), default=0)
    lines = json_lines(f"{folder}/{TRIES_FILE}")
    if sum(line.get("began") == step for line in lines) >= MOST_TRIES:
        seen = next((line["failed"] for line in reversed(lines) if "failed" in line), "its process was killed")
        raise RunStopped(
            f"the fine-tuning ended {MOST_TRIES} times after step {step} before it came to another checkpoint, last "
            f"with: {seen}. Where the machine is at fault the same command goes on from step {step}"
        )
    storage.append_line(f"{folder}/{TRIES_FILE}", json.dumps({"began": step}))


def _is_everyones(error: Exception, folder: str) -> bool:
    """Whether all workers leave alike, having agreed to: before a deadline, or because the driver said so."""
    return isinstance(error, DeadlineReached) or (isinstance(error, RunStopped) and is_noticed(folder))


def _told(error: Exception) -> str:
    if isinstance(error, SemievolError):
        return str(error)
    return f"fine-tuning failed: {type(error).__name__}: {_last_line(error)}"


def _last_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[-1] if text else type(error).__name__
