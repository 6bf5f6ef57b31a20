"""Where trackers write: tensorboard's event files, a wandb run, an mlflow run, each behind `open_sink`.

Invariant: a run that is opened again continues the wandb and mlflow runs named in its trackers.json, and nothing that
looks like a secret leaves: neither in the configuration nor in an address.
"""

import importlib
import json
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from semievol_ray import folders, storage
from semievol_ray.errors import MissingExtraError, UserError
from semievol_ray.tracking.eventfile import EventFile

WANDB, MLFLOW = "wandb>=0.31", "mlflow-skinny>=3"
"""What pip installs; wandb since 0.31 says whether one is logged in without asking for it."""

IDS_FILE = "trackers.json"
PROJECT = "semievol"
FINISH_SECONDS, INIT_SECONDS = 4.0, 20.0  # wandb holds up the end of the process by no more than these
_MOST_METRICS, _MOST_PARAMS, _MOST_TEXT = 1000, 100, 500  # of one mlflow request, and of one of its parameters
_SECRET = re.compile(r"(^|[_-])(token|secret|password|passwd|api_?key|credentials?)$", re.IGNORECASE)
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")
_ids_lock = threading.Lock()


@dataclass(frozen=True)
class Point:
    """Values by metric name (group/key) at one step of their group; `at_seconds` since the epoch."""

    group: str
    values: Mapping[str, float]
    step: int
    at_seconds: float


class Sink(Protocol):
    """An open tracker; any method may raise anything, and may hang."""

    def write(self, points: Sequence[Point]) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Tracked:
    """The run that is tracked: its folder, its name, and its resolved configuration as JSON values."""

    root: str
    run_name: str
    config: Mapping[str, object]

    def folder(self) -> str:
        """A folder on this machine for a tracker's files: the run's own, a new one for a run in an object store."""
        return tempfile.mkdtemp(prefix="semievol-tracker-") if storage.is_remote(self.root) else self.root


def open_sink(name: str, tracked: Tracked) -> Sink:
    """The tracker of that name. Errors: MissingExtraError without its package, and whatever it raises itself."""
    match name:
        case "tensorboard":
            folder = tracked.folder()
            return TensorboardSink(f"{folder}/tensorboard", partial(_hand_over, folder, tracked.root))
        case "wandb":
            return WandbSink(tracked)
        case "mlflow":
            return MlflowSink(tracked)
        case _:
            raise UserError(f"there is no tracker {name!r}: report_to takes tensorboard, wandb and mlflow")


class TensorboardSink:
    """A folder and a file for each beginning of names, train/rounds/0001 say: each counts steps of its own.

    What is logged again after a restart replaces, in TensorBoard, what older files of that folder hold from the first
    of those steps on.
    """

    def __init__(self, folder: str, hand_over: Callable[[], None] = lambda: None) -> None:
        self._folder, self._hand_over = folder, hand_over
        self._files: dict[str, EventFile] = {}

    def write(self, points: Sequence[Point]) -> None:
        for point in points:
            for beginning, values in _by_beginning(point.values).items():
                self._file(beginning, point).write(values, point.step, point.at_seconds)

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._hand_over()

    def _file(self, beginning: str, first: Point) -> EventFile:
        if beginning not in self._files:
            path = f"{self._folder}/{beginning}/events.out.tfevents.{time.time_ns():020d}.{os.getpid()}"
            self._files[beginning] = EventFile(path, first.step, first.at_seconds)
        return self._files[beginning]


class WandbSink:
    """A wandb run: the user's WANDB_MODE; without one online where the user is logged in, else offline.

    Steps logged again after a restart stand in it twice, at the same `<group>/step`.
    """

    def __init__(self, tracked: Tracked) -> None:
        wandb = _imported("wandb", WANDB)
        known = _known(tracked.root, "wandb")
        self._groups: set[str] = set()
        folder = tracked.folder()
        self._hand_over = partial(_hand_over, folder, tracked.root)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=tracked.run_name,
            dir=os.environ.get("WANDB_DIR", folder),
            config=public(tracked.config),
            allow_val_change=True,
            mode=_wandb_mode(wandb),
            id=known.get("id"),
            resume="allow" if known else None,
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                init_timeout=INIT_SECONDS,
                finish_timeout=FINISH_SECONDS,
                finish_timeout_raises=True,
            ),
        )
        _keep(tracked.root, "wandb", {"id": str(self._run.id)})

    def write(self, points: Sequence[Point]) -> None:
        for point in points:
            if point.group not in self._groups:
                self._groups.add(point.group)
                self._run.define_metric(f"{point.group}/*", step_metric=f"{point.group}/step")
            self._run.log({**point.values, f"{point.group}/step": point.step})

    def close(self) -> None:
        self._run.finish()
        self._hand_over()


class MlflowSink:
    """An mlflow run at MLFLOW_TRACKING_URI, else in the folder mlruns of the run.

    Steps logged again after a restart stand in it twice, with their times.
    """

    def __init__(self, tracked: Tracked) -> None:
        if "MLFLOW_TRACKING_URI" not in os.environ:
            if storage.is_remote(tracked.root):
                raise UserError("a run in an object store has no folder for mlflow: set MLFLOW_TRACKING_URI")
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # or mlflow 3.17 refuses folders
        mlflow = _imported("mlflow", MLFLOW)
        self._entities = importlib.import_module("mlflow.entities")
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{Path(tracked.root).absolute().as_uri()}/mlruns"
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        self._id = self._continued(tracked.root, public(uri)) or self._created(tracked, public(uri))

    def write(self, points: Sequence[Point]) -> None:
        metrics = [
            self._entities.Metric(key, value, int(point.at_seconds * 1000), point.step)
            for point in points
            for key, value in point.values.items()
        ]
        for start in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(self._id, metrics=metrics[start : start + _MOST_METRICS])

    def close(self) -> None:
        self._client.set_terminated(self._id, "FINISHED")

    def _continued(self, root: str, uri: str) -> str | None:
        """The id of the run of an earlier start, running again; None where there is none or it was deleted."""
        known = _known(root, "mlflow")
        if known.get("uri") != uri:
            return None
        try:
            if self._client.get_run(known["id"]).info.lifecycle_stage == "deleted":
                return None
        except Exception as error:  # mlflow's own class, which cannot be named without importing it
            if getattr(error, "error_code", None) != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        self._client.update_run(known["id"], status="RUNNING")
        return known["id"]

    def _created(self, tracked: Tracked, uri: str) -> str:
        experiment = os.environ.get("MLFLOW_EXPERIMENT_ID") or self._experiment()
        run_id = str(self._client.create_run(experiment, run_name=tracked.run_name).info.run_id)
        _keep(tracked.root, "mlflow", {"id": run_id, "uri": uri})
        params = [self._entities.Param(key, text[:_MOST_TEXT]) for key, text in _flat(public(tracked.config))]
        for start in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(run_id, params=params[start : start + _MOST_PARAMS])
        return run_id

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name))


def _hand_over(folder: str, root: str) -> None:
    """Store what a tracker wrote on this machine in the run it belongs to, where that is elsewhere."""
    if folder != root:
        folders.put_folder(folder, root)
        shutil.rmtree(folder, ignore_errors=True)


def _by_beginning(values: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Values by all of their name but its last word."""
    found: dict[str, dict[str, float]] = {}
    for name, value in values.items():
        found.setdefault(name.rpartition("/")[0], {})[name] = value
    return found


def public(value: Any) -> Any:
    """A JSON value without the values of keys named like secrets, and without user and password in addresses."""
    if isinstance(value, Mapping):
        return {k: "(hidden)" if _SECRET.search(str(k)) and v else public(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [public(item) for item in value]
    return _USER_INFO.sub("", value) if isinstance(value, str) else value


def _wandb_mode(wandb: Any) -> str | None:
    """The mode to ask wandb for, None for the user's own; it never gets to ask for a key."""
    users = os.environ.get("WANDB_MODE")
    if users in ("offline", "disabled", "dryrun"):
        return None
    if wandb.login(prompt=False, verify=False):
        return None
    if users:
        raise UserError(f"WANDB_MODE is {users} and there is no key: run `wandb login`, or set WANDB_MODE=offline")
    return "offline"


def _imported(name: str, requirement: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise MissingExtraError(f"{name} is not installed: pip install '{requirement}'") from error


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of a tree of mappings under dotted keys, as text; nulls are left out."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    elif value is not None:
        yield prefix, value if isinstance(value, str) else json.dumps(value, default=str)


def _known(root: str, name: str) -> dict[str, str]:
    """What an earlier start of this run kept of a tracker; empty at the first."""
    path = f"{root}/{IDS_FILE}"
    return json.loads(storage.read(path)).get(name, {}) if storage.exists(path) else {}


def _keep(root: str, name: str, record: Mapping[str, str]) -> None:
    path = f"{root}/{IDS_FILE}"
    with _ids_lock:
        before = json.loads(storage.read(path)) if storage.exists(path) else {}
        storage.write(path, json.dumps({**before, name: dict(record)}, indent=1).encode())
