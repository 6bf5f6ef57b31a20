"""The search for speed settings: where it looks, when it stops, what it writes; and once with the scripted engine."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from semievol_ray import cli, configfile, tune
from semievol_ray.config import SpeedConfig
from semievol_ray.errors import RunStopped, UserError
from semievol_ray.placement import Node, Resources
from semievol_ray.progress import Progress
from semievol_ray.tunespace import (
    Dimension,
    Settings,
    Trial,
    beginning,
    best_of,
    dimensions,
    part_rows_of,
    rows_wanted,
    search,
    speed_with,
)
from tests.rundirs import changed, run_tree

GPUS = Resources((Node(32, 8),) * 2)
CPUS = Resources((Node(4, 0, 8 * 2**30),))
SEQS = Dimension("seqs", tuple({"max_num_seqs": n} for n in (8, 16, 32, 64, 128)))
REPLICAS = Dimension("layout", tuple({"num_replicas": n} for n in (1, 2, 4)))
START = {"num_replicas": 1, "max_num_seqs": 32}


def _always(_: Sequence[Trial]) -> bool:
    return True


def _by(rate: Callable[[Settings], float | None]) -> Callable[[Settings], Trial]:
    return lambda settings: Trial(settings, rate(settings))


@pytest.mark.parametrize(("peak", "num"), [(8, 1), (32, 2), (128, 4), (16, 4)])
def test_search_climbs_to_the_peak_in_any_direction(peak: int, num: int) -> None:
    def rate(settings: Settings) -> float:
        return 100 - abs(settings["max_num_seqs"] - peak) / 2 - 10 * abs(settings["num_replicas"] - num)

    best = best_of(list(search([REPLICAS, SEQS], START, _by(rate), _always)))
    assert best is not None
    assert best.settings == {"num_replicas": num, "max_num_seqs": peak}


def test_search_measures_nothing_twice_and_begins_with_what_is_configured() -> None:
    trials = list(search([REPLICAS, SEQS], START, _by(lambda s: float(s["max_num_seqs"] % 48)), _always))
    seen = [tuple(trial.settings.items()) for trial in trials]
    assert trials[0].settings == START
    assert len(seen) == len(set(seen))


def test_settings_that_fail_are_left_and_those_below_are_tried() -> None:
    trials = list(search([SEQS], START, _by(lambda s: None if s["max_num_seqs"] >= 32 else 5.0), _always))
    best = best_of(trials)
    assert best is not None
    assert best.settings["max_num_seqs"] == 16
    assert trials[0].rows_per_second is None


def test_gain_within_the_noise_is_no_reason_to_change() -> None:
    trials = list(search([SEQS], START, _by(lambda s: 10.0 if s == START else 10.2), _always))
    assert best_of(trials) is trials[0]


def test_search_ends_when_its_time_is_up() -> None:
    trials = list(search([REPLICAS, SEQS], START, _by(lambda _: 1.0), lambda done: len(done) < 2))
    assert len(trials) == 2


def _config(folder: Path, **speed: Any) -> Any:
    tree = run_tree(folder, labeled=16, unlabeled=24, test=8)
    return configfile.parse({**tree, "speed": {**tree["speed"], **speed}, "numerics": {"engine": "vllm"}}, "test")


def test_cluster_of_gpus_varies_tensor_parallel_size_with_as_many_replicas_as_fit(tmp_path: Path) -> None:
    config = _config(tmp_path, engine_kwargs={})
    varied = dimensions(config, GPUS)
    assert [d.name for d in varied] == ["layout", "max_num_seqs", "max_num_batched_tokens", "memory"]
    assert [(c["tensor_parallel_size"], c["num_replicas"]) for c in varied[0].choices] == [
        (1, 16), (2, 8), (4, 4), (8, 2),
    ]  # fmt: skip
    start = beginning(config, GPUS, varied)
    assert (start["num_replicas"], start["tensor_parallel_size"], start["max_num_seqs"]) == (16, 1, 256)


def test_cpus_vary_engines_and_a_cache_of_at_most_half_the_memory(tmp_path: Path) -> None:
    config = _config(tmp_path, engine_kwargs={"max_num_seqs": 16})
    varied = {d.name: d.choices for d in dimensions(config, CPUS)}
    assert [c["num_replicas"] for c in varied["layout"]] == [1, 2, 4]
    assert max(c["kv_cache_memory_bytes"] for c in varied["kv_cache_memory_bytes"]) == 4 * 2**30
    assert beginning(config, CPUS, dimensions(config, CPUS))["max_num_seqs"] == 16


@pytest.mark.parametrize(
    ("resources", "speed"),
    [(GPUS, {}), (GPUS, {"part_rows": 2048, "engine_kwargs": {"max_num_seqs": 64}}), (Resources((Node(32, 4),)), {})],
)
def test_sample_fills_each_engine_of_the_layout_with_the_most_of_them_several_times(
    resources: Resources, speed: dict[str, Any], tmp_path: Path
) -> None:
    config = _config(tmp_path, **{"engine_kwargs": {}, **speed})
    rows, part_rows = rows_wanted(config, resources), part_rows_of(config)
    most = max(int(choice["num_replicas"]) for choice in dimensions(config, resources)[0].choices)
    each = rows * len(config.method.collaborators) / most
    assert each >= 3 * 2 * int(config.speed.engine_kwargs.get("max_num_seqs", 256))
    assert rows / part_rows / most >= 6  # parts for each, so that the last of them does not decide


def test_sample_without_gpus_is_small() -> None:
    config = configfile.parse(
        {"name": "a", "task": "arc", "data": {"labeled": "a", "unlabeled": "b"}, "model": "m"}, ""
    )
    assert rows_wanted(config, CPUS) == 64
    assert rows_wanted(config, Resources(CPUS.nodes * 4)) == 256


def test_batches_never_hold_fewer_tokens_than_requests() -> None:
    start = {"num_replicas": 1, "max_num_seqs": 64, "max_num_batched_tokens": 64}
    trials = search([SEQS], start, _by(lambda s: float(s["max_num_seqs"])), _always)
    assert all(trial.settings["max_num_seqs"] <= 64 for trial in trials)


def test_snippet_holds_the_best_settings_over_the_configured_ones(tmp_path: Path) -> None:
    config = _config(tmp_path, engine_kwargs={"max_num_seqs": 16, "block_size": 64})
    trials = [Trial({"num_replicas": 1, "max_num_seqs": 16}, 4.0), Trial({"num_replicas": 2, "max_num_seqs": 32}, 6.0)]
    text = tune.snippet(config, trials)
    assert yaml.safe_load(text) == {
        "speed": {"num_replicas": 2, "engine_kwargs": {"max_num_seqs": 32, "block_size": 64}}
    }
    assert "1.50 times" in text
    SpeedConfig.model_validate(yaml.safe_load(text)["speed"])


def test_tensor_parallel_size_of_one_is_not_written() -> None:
    speed = speed_with(SpeedConfig(), {"num_replicas": 4, "tensor_parallel_size": 1, "max_num_seqs": 8})
    assert speed.engine_kwargs == {"max_num_seqs": 8}


def test_nothing_that_works_is_told_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(RunStopped, match="no settings that work: out of memory"):
        tune.snippet(_config(tmp_path), [Trial(START, None, note="out of memory")] * 2)


def test_trial_is_measured_from_the_first_question_to_the_last_answer() -> None:
    figures = {"kind": "part_committed", "num_rows": 10, "num_tokens": 100, "num_errors": 0, "first_error": None}
    parts = [
        {**figures, "time": "2026-01-01T10:00:08+00:00", "seconds": 8.0, "start_seconds": 30.0},
        {**figures, "time": "2026-01-01T10:00:10+00:00", "seconds": 4.0, "start_seconds": 31.0},
    ]
    found = tune.measured(START, parts, 60.0)
    assert (found.rows_per_second, found.tokens_per_second, found.start_seconds) == (2.0, 20.0, 31.0)
    short = tune.measured(START, [*parts, {"kind": "engine_out_of_memory"}], 60.0)
    assert (short.rows_per_second, short.note) == (None, "an engine ran out of memory")
    parts[1] |= {"num_errors": 3, "first_error": "why"}
    assert tune.measured(START, parts, 60.0).rows_per_second is None


def test_configuration_with_endpoints_alone_has_nothing_to_tune(tmp_path: Path) -> None:
    endpoint = {"model": "far", "endpoint": {"url": "http://far.example/v1"}}
    tree = changed(run_tree(tmp_path, labeled=8, unlabeled=8), "method.collaborators", [endpoint])
    with pytest.raises(UserError, match="behind an endpoint"):
        tune.sampled(configfile.parse(tree, "test"))


@pytest.mark.usefixtures("without_ray")
def test_tune_measures_the_sample_with_the_runs_actors_and_writes_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tree = run_tree(tmp_path, labeled=16, unlabeled=40, test=8)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    assert cli.main(["tune", "run.yaml", "--rows", "20", "--minutes", "0.001"]) == 0
    told = capsys.readouterr()
    assert "20 rows of the pool a trial" in told.err
    assert "rows/s" in told.out
    written = yaml.safe_load((tmp_path / "small.tuned.yaml").read_text())
    assert written["speed"]["engine_kwargs"]["max_num_seqs"] == 4
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.usefixtures("without_ray")
def test_interrupted_tune_tells_the_best_so_far_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = run_tree(tmp_path, labeled=16, unlabeled=16)
    run_group, calls = tune.run_group, []

    def interrupted(*arguments: Any) -> None:
        calls.append(arguments[1])
        if len(calls) == 3:
            raise KeyboardInterrupt
        run_group(*arguments)

    monkeypatch.setattr(tune, "run_group", interrupted)
    trials = tune.tune(
        configfile.parse(tree, "test"), 10, rows=16, folder=str(tmp_path / "runs"), progress=Progress(quiet=True)
    )
    assert len(trials) == 2
    assert best_of(trials) is not None
    assert tune.render(trials).count("\n") >= 2
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.usefixtures("without_ray")
def test_settings_that_stop_their_engines_are_a_line_of_the_table_and_not_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_group = tune.run_group

    def stopping(context: Any, *arguments: Any) -> None:
        if context.config.speed.engine_kwargs["max_num_seqs"] > 4:
            raise RunStopped("does not fit this device")
        run_group(context, *arguments)

    monkeypatch.setattr(tune, "run_group", stopping)
    config = configfile.parse(run_tree(tmp_path, labeled=16, unlabeled=16), "test")
    trials = tune.tune(config, 0.5, rows=16, folder=str(tmp_path / "runs"), progress=Progress(quiet=True))
    assert trials[0].rows_per_second
    assert "does not fit this device" in [trial.note for trial in trials]
    assert "does not fit" in tune.render(trials)
