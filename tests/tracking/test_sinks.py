"""wandb and mlflow behind fakes with their API, which keep what they are told as a server would."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from semievol_ray.errors import MissingExtraError, UserError
from semievol_ray.tracking.sinks import Point, Tracked, open_sink, public

POINT = Point("train", {"train/loss": 0.5}, 7, 1000.25)
CONFIG = {
    "model": "small",
    "train": {"learning_rate": 1e-4, "max_tokens": 6, "seed": None},
    "numerics": {"engine_kwargs": {"hf_token": "hush"}},
    "collaborators": [{"endpoint": {"url": "https://me:hush@host/v1", "api_key_env": "MY_KEY"}}],
}


@dataclass
class FakeWandb(ModuleType):
    """The module wandb: runs by id, in the order in which they were opened."""

    logged_in: bool = False
    opened: list[dict[str, Any]] = field(default_factory=list)
    lines: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)
    num_finished: int = 0

    def __post_init__(self) -> None:
        super().__init__("wandb")

    def login(self, *, prompt: bool, verify: bool) -> bool:
        assert not prompt
        assert not verify
        return self.logged_in

    def Settings(self, **settings: Any) -> dict[str, Any]:  # noqa: N802
        return settings

    def init(self, **arguments: Any) -> Any:
        self.opened.append(arguments)
        run_id = arguments["id"] or f"made-{len(self.opened)}"
        lines = self.lines.setdefault(run_id, [])
        return SimpleNamespace(id=run_id, log=lines.append, define_metric=self.define_metric, finish=self.finish)

    def define_metric(self, name: str, step_metric: str) -> None:
        self.axes[name] = step_metric

    def finish(self) -> None:
        self.num_finished += 1


@dataclass
class NoSuchRunError(Exception):
    error_code: str = "RESOURCE_DOES_NOT_EXIST"


@dataclass
class FakeMlflow(ModuleType):
    """The modules mlflow and mlflow.entities, and the server behind them: one, whatever the address."""

    uris: list[str] = field(default_factory=list)
    experiments: dict[str, str] = field(default_factory=dict)
    runs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__("mlflow")

    def MlflowClient(self, tracking_uri: str) -> "FakeMlflow":  # noqa: N802
        self.uris.append(tracking_uri)
        return self

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id=self.experiments[name]) if name in self.experiments else None

    def create_experiment(self, name: str) -> str:
        return self.experiments.setdefault(name, f"experiment-{len(self.experiments)}")

    def create_run(self, experiment_id: str, run_name: str) -> Any:
        info = SimpleNamespace(run_id=f"run-{len(self.runs)}", lifecycle_stage="active", run_name=run_name)
        run = SimpleNamespace(info=info, experiment=experiment_id, status="RUNNING", metrics=[], params={})
        self.runs[info.run_id] = run
        return run

    def get_run(self, run_id: str) -> Any:
        if run_id not in self.runs:
            raise NoSuchRunError
        return self.runs[run_id]

    def log_batch(self, run_id: str, metrics: Sequence[Any] = (), params: Sequence[Any] = ()) -> None:
        assert len(metrics) <= 1000
        assert len(params) <= 100
        self.runs[run_id].metrics += metrics
        for key, value in params:
            assert self.runs[run_id].params.setdefault(key, value) == value, "mlflow refuses to change a parameter"

    def update_run(self, run_id: str, status: str) -> None:
        self.runs[run_id].status = status

    set_terminated = update_run


def entities() -> ModuleType:
    module = ModuleType("mlflow.entities")
    module.Metric = lambda key, value, timestamp, step: (key, value, timestamp, step)  # type: ignore[attr-defined]
    module.Param = lambda key, value: (key, value)  # type: ignore[attr-defined]
    return module


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> FakeMlflow:
    for name in ("TRACKING_URI", "EXPERIMENT_NAME", "EXPERIMENT_ID"):
        monkeypatch.delenv(f"MLFLOW_{name}", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities())
    return fake


def track(name: str, root: Path, *points: Point, config: dict[str, Any] | None = None) -> None:
    """One start of a run, from opening to closing its tracker."""
    sink = open_sink(name, Tracked(str(root), "my run", config or CONFIG))
    sink.write(points)
    sink.close()


def test_wandb_of_a_user_who_is_not_logged_in_stays_offline(wandb: FakeWandb, tmp_path: Path) -> None:
    track("wandb", tmp_path, POINT)
    assert wandb.opened[0]["mode"] == "offline"
    assert wandb.lines == {"made-1": [{"train/loss": 0.5, "train/step": 7}]}
    assert wandb.axes == {"train/*": "train/step"}
    assert wandb.num_finished == 1


@pytest.mark.parametrize(("mode", "logged_in"), [(None, True), ("online", True), ("offline", False)])
def test_wandb_follows_the_users_mode(
    wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str | None, logged_in: bool
) -> None:
    wandb.logged_in = logged_in
    if mode:
        monkeypatch.setenv("WANDB_MODE", mode)
    track("wandb", tmp_path)
    assert wandb.opened[0]["mode"] is None


def test_wandb_online_without_a_key_is_refused_before_it_asks(
    wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(UserError, match="wandb login"):
        track("wandb", tmp_path)
    assert wandb.opened == []


def test_wandb_started_again_continues_the_same_run(wandb: FakeWandb, tmp_path: Path) -> None:
    track("wandb", tmp_path, POINT)
    track("wandb", tmp_path, POINT)
    assert [(o["id"], o["resume"]) for o in wandb.opened] == [(None, None), ("made-1", "allow")]
    assert len(wandb.lines["made-1"]) == 2


def test_mlflow_keeps_metrics_and_the_configuration(mlflow: FakeMlflow, tmp_path: Path) -> None:
    track("mlflow", tmp_path, POINT)
    (run,) = mlflow.runs.values()
    assert mlflow.uris == [f"{tmp_path.as_uri()}/mlruns"]
    assert run.experiment == mlflow.experiments["semievol"]
    assert run.metrics == [("train/loss", 0.5, 1_000_250, 7)]
    assert (run.params["model"], run.params["train.learning_rate"], run.status) == ("small", "0.0001", "FINISHED")


def test_mlflow_started_again_continues_the_same_run_under_a_changed_configuration(
    mlflow: FakeMlflow, tmp_path: Path
) -> None:
    track("mlflow", tmp_path, POINT)
    track("mlflow", tmp_path, POINT, config={**CONFIG, "model": "other"})
    (run,) = mlflow.runs.values()
    assert len(run.metrics) == 2
    assert run.params["model"] == "small"


def test_mlflow_run_deleted_meanwhile_is_begun_anew(mlflow: FakeMlflow, tmp_path: Path) -> None:
    track("mlflow", tmp_path, POINT)
    mlflow.runs["run-0"].info.lifecycle_stage = "deleted"
    track("mlflow", tmp_path, POINT)
    assert list(mlflow.runs) == ["run-0", "run-1"]
    del mlflow.runs["run-1"]
    track("mlflow", tmp_path, POINT)
    assert [len(run.metrics) for run in mlflow.runs.values()] == [1, 1]


def test_mlflow_at_another_address_is_begun_anew(
    mlflow: FakeMlflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    track("mlflow", tmp_path, POINT)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hush@tracking:5000")
    track("mlflow", tmp_path, POINT)
    assert mlflow.uris[1] == "http://me:hush@tracking:5000"
    assert list(mlflow.runs) == ["run-0", "run-1"]


def test_nothing_secret_is_handed_to_a_tracker_or_kept(
    mlflow: FakeMlflow, wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hush@tracking:5000")
    track("mlflow", tmp_path, POINT)
    track("wandb", tmp_path, POINT)
    params = mlflow.runs["run-0"].params
    assert "hush" not in f"{params} {wandb.opened[0]} {(tmp_path / 'trackers.json').read_text()}"
    assert (params["train.max_tokens"], wandb.opened[0]["config"]["train"]["max_tokens"]) == ("6", 6)
    assert "MY_KEY" in params["collaborators"]


def test_long_configuration_fits_mlflows_limits(mlflow: FakeMlflow, tmp_path: Path) -> None:
    track("mlflow", tmp_path, *[POINT] * 2500, config={f"key{i}": "x" * 900 for i in range(250)})
    (run,) = mlflow.runs.values()
    assert (len(run.params), len(run.metrics), len(run.params["key0"])) == (250, 2500, 500)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_missing_package_is_named_with_its_pip_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=f"pip install '{name}"):
        open_sink(name, Tracked(str(tmp_path), "my run", {}))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"a": {"api_key": "k"}, "hf_token": ""}, {"a": {"api_key": "(hidden)"}, "hf_token": ""}),
        (["http://a:b@c/d", "a@b.org"], ["http://c/d", "a@b.org"]),
        ({"max_tokens": 6, "api_key_env": "X", "key": 1}, {"max_tokens": 6, "api_key_env": "X", "key": 1}),
    ],
)  # fmt: skip
def test_public_hides_secrets_alone(value: Any, shown: Any) -> None:
    assert public(value) == shown
