"""The preflight of a run: what refuses it, what only warns, and what stands in its events."""

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from semievol_ray import configfile, driver, preflight, storage
from semievol_ray.config import RunConfig
from semievol_ray.engines.footprint import cache_bytes_a_token
from semievol_ray.errors import ClusterError, PlacementError
from semievol_ray.evaluation import evaluate_file
from semievol_ray.label import label_file
from semievol_ray.machine import Gpu
from semievol_ray.placement import Node, Resources
from semievol_ray.problems import Gravity, Kind, Problem
from semievol_ray.progress import Progress
from semievol_ray.runs import read_events
from semievol_ray.stages import nodes
from semievol_ray.stages.context import Context
from tests.conftest import ScriptedRun
from tests.rundirs import changed, do_run, run_tree
from tests.test_problems import MACHINE

SIZES = {"labeled": 8, "unlabeled": 16, "test": 8}
GPUS = Resources((Node(8, 4, 10**11, (16 * 10**9,) * 4, "a"),))


def events(root: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(str(root)) if event["kind"] == kind]


@pytest.mark.usefixtures("small_ray")
def test_run_that_cannot_be_placed_is_refused_before_anything_is_trained_with_every_reason(tmp_path: Path) -> None:
    tree = changed(run_tree(tmp_path, **SIZES), "speed.num_replicas", 40)
    tree = changed(changed(tree, "speed.num_train_workers", 8), "train", {"train_batch_size": 8})

    with pytest.raises(PlacementError, match="2 reasons") as raised:
        do_run(tree, tmp_path / "run")

    assert "1. speed.num_replicas 40 does not fit: 40 x (1 CPUs, 0 GPUs)" in str(raised.value)
    assert "2. speed.num_train_workers 8 does not fit" in str(raised.value)
    (event,) = events(tmp_path / "run", "preflight")
    assert [problem["kind"] for problem in event["problems"]] == ["placement", "placement"]
    assert not (tmp_path / "run/rounds/0000/train").exists()


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"working_dir": "."}, "is not a valid URI"),
        ({"pip": 3}, "runtime_env['pip'] must be of type str or List[str]"),
    ],
)
def test_environment_that_ray_would_not_make_is_refused_with_its_reason(env: dict[str, Any], told: str) -> None:
    config = RunConfig.model_validate(
        {"name": "a", "task": "wordnet", "data": {"labeled": "l.csv", "unlabeled": "u.csv"}, "model": "m",
         "speed": {"runtime_env": {"generate": env}}}
    )  # fmt: skip

    (problem,) = preflight.placement_problems(config, Resources((Node(2, 0),)))

    assert problem.gravity is Gravity.ERROR
    assert problem.text.startswith("speed.runtime_env.generate: ")
    assert told in problem.text


@pytest.mark.usefixtures("small_ray")
@pytest.mark.parametrize("answer", [label_file, evaluate_file])
def test_label_and_evaluate_that_cannot_be_placed_are_refused_before_a_row_is_read_by_an_engine(
    scripted_run: ScriptedRun, tmp_path: Path, answer: Callable[..., Any]
) -> None:
    root, rows = tmp_path / "run", tmp_path / "rows.csv"
    shutil.copytree(scripted_run.root, root)
    rows.write_text("question,answer\na plant with leaves,plant\n", encoding="utf-8")
    before = len(events(root, "preflight"))
    to = (str(rows), str(tmp_path / "out.csv")) if answer is label_file else (str(rows),)

    with pytest.raises(PlacementError, match=r"speed\.num_replicas min 40 does not fit"):
        answer(str(root), *to, replicas=(40, 40), progress=Progress(quiet=True))

    event = events(root, "preflight")[before]
    assert [problem["kind"] for problem in event["problems"]] == ["placement"]


def test_gpus_that_ray_does_not_give_out_refuse_nothing() -> None:
    gpus = (Gpu("display", 4 * 10**9), Gpu("A100", 80 * 10**9))
    machine = replace(MACHINE, gpus=gpus)
    reports = [nodes.NodeReport("a", 8, 1, machine), nodes.NodeReport("head", 8, 0, machine)]
    assert [node.gpu_bytes for node in preflight.resources_of(reports).nodes] == [(80 * 10**9,), ()]


def test_what_answers_with_the_runs_model_alone_needs_neither_other_models_nor_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"collaborators": [{"demonstrations": 2}, {"model": "org/other"}]}
    config = _config(tmp_path, model="org/student", numerics={"engine": "vllm"}, method=asked,
                     speed={"num_train_workers": 8}, train={"train_batch_size": 8})  # fmt: skip
    looked: list[tuple[RunConfig, bool]] = []
    monkeypatch.setattr(preflight, "_look", lambda _, config, trains: looked.append((config, trains)))
    preflight.serving_preflight(Context(None, config, Progress(quiet=True), ExitStack()))  # type: ignore[arg-type]

    ((alone, trains),) = looked
    assert (preflight.loaded_models(alone), trains) == (["org/student"], False)
    assert preflight.placement_problems(config, Resources((Node(2, 0),)), trains=False) == []
    assert preflight.placement_problems(config, Resources((Node(2, 0),)))


def test_preflight_of_a_run_is_one_event_within_seconds_and_leaves_no_token(scripted_run: ScriptedRun) -> None:
    (event,) = events(scripted_run.root, "preflight")

    assert event["seconds"] < 3
    assert event["nodes"][0]["machine"]["versions"]["ray"]
    assert [p for p in event["problems"] if p["gravity"] == "error"] == []
    assert not [path for path in scripted_run.root.iterdir() if path.name.startswith(".doctor")]


def test_finished_run_is_not_looked_at_again(scripted_run: ScriptedRun, copied_run: Path) -> None:
    before = len(events(copied_run, "run_started"))
    driver.run(configfile.load(str(scripted_run.config)), str(copied_run), Progress(quiet=True))

    assert len(events(copied_run, "run_started")) == before + 1
    assert len(events(copied_run, "preflight")) == 1


@pytest.mark.usefixtures("small_ray")
def test_every_node_is_asked_by_a_task_and_tokens_go_round(tmp_path: Path) -> None:
    first, only = nodes.node_reports(str(tmp_path), 60.0)

    assert (first.node, first.unread, only.unread, only.silent) == (nodes.DRIVER, {}, {}, None)
    assert only.machine is not None
    assert first.machine is not None
    assert only.machine.versions["torch"] == first.machine.versions["torch"]
    assert (only.num_cpus, only.skew_seconds) == (2, 0)
    assert list(tmp_path.iterdir()) == []


def test_token_that_is_missing_or_another_is_told(tmp_path: Path) -> None:
    storage.create(f"{tmp_path}/a", b"a")
    storage.create(f"{tmp_path}/b", b"not b")
    found = nodes._unread(str(tmp_path), ["a", "b", "c"])

    assert list(found) == ["b", "c"]
    assert "another text" in found["b"]


def test_what_cannot_be_placed_warns_on_a_cluster_that_grows(tmp_path: Path) -> None:
    config = _config(tmp_path, speed={"num_replicas": 9, "autoscaling": True})
    found = preflight.placement_problems(config, GPUS)

    assert [p.gravity for p in found] == [Gravity.WARNING]
    preflight.refuse(found)


def test_weights_of_every_model_are_held_against_the_gpus(tmp_path: Path) -> None:
    config = _config(
        tmp_path,
        model="org/student",
        numerics={"engine": "vllm"},
        method={"embedder": "hash", "collaborators": [{}, {"model": "org/other"}]},
    )
    assert preflight.models(config) == ["org/student", "org/other"]
    found = preflight.memory_problems(config, GPUS, {"org/student": 17 * 10**9, "org/other": 2 * 10**9})

    assert [(p.kind, p.gravity) for p in found] == [(Kind.PLACEMENT, Gravity.ERROR)] * 2
    assert found[0].text.startswith("org/student in bfloat16: weights need 17.0 GB")
    assert found[1].text.startswith("fine-tuning org/student in bfloat16")


@pytest.mark.parametrize(
    ("resources", "method", "fits"),
    [
        (Resources((Node(8, 1, 10**11, (16 * 10**6,), "a"),)), "lora", True),
        (Resources((Node(8, 1, 10**11, (16 * 10**6,), "a"),)), "full", False),
        (Resources((Node(2, 0, 10**8, (), "a"),)), "full", True),
        (Resources((Node(2, 0, 16 * 10**6, (), "a"),)), "full", False),
        (Resources((Node(2, 0, 0, (), "a"),)), "full", True),
    ],
)
def test_base_whose_gradients_and_optimizer_do_not_fit_is_refused_though_its_weights_do(
    resources: Resources, method: str, fits: bool, tmp_path: Path
) -> None:
    """A model of 1,000,000 parameters: 2 MB in bfloat16 with LoRA, 20 MB with all that full fine-tuning adds."""
    told = {"num_attention_heads": 4, "num_hidden_layers": 1, "hidden_size": 1000, "intermediate_size": 10}
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps({**told, "vocab_size": 9}))
    weights = {"model.layers.0.mlp.up_proj.weight": np.ones((1000, 1000), np.float32)}
    save_file(weights, tmp_path / "model/model.safetensors")
    config = _config(tmp_path, model="org/student", numerics={"engine": "vllm"}, train={"method": method})
    found = preflight.training_problems(config, resources, {"org/student": str(tmp_path / "model")})
    assert [problem.gravity for problem in found] == ([] if fits else [Gravity.ERROR])
    assert all("org/student in " in p.text and "weights 0.00 GB + gradients" in p.text for p in found)
    assert preflight.training_problems(config, resources, {"org/student": str(tmp_path)}) == []


def test_refusals_of_the_machines_are_told_as_the_clusters() -> None:
    wrong = Problem(Gravity.ERROR, Kind.VERSIONS, "ray differs")

    with pytest.raises(ClusterError, match="ray differs"):
        preflight.refuse([wrong, Problem(Gravity.WARNING, Kind.DISK, "low")])


def _config(folder: Path, **changes: Any) -> Any:
    tree = run_tree(folder, **SIZES)
    for key, value in changes.items():
        tree = changed(tree, key, value)
    return configfile.parse(tree, "test")


@pytest.mark.parametrize(
    ("speed", "resources", "fits"),
    [
        ({}, Resources((Node(8, 0),)), True),
        ({"kv_cache_memory_bytes": 64 * 2048}, Resources((Node(8, 0),)), True),
        ({"kv_cache_memory_bytes": 64 * 2048 - 1}, Resources((Node(8, 0),)), False),
        ({"kv_cache_memory_bytes": 32 * 2048, "tensor_parallel_size": 2}, GPUS, True),
        ({"kv_cache_memory_bytes": 32 * 2048}, GPUS, False),
        ({}, Resources((Node(8, 1, 10**11, (200_000,), "a"),)), False),
        ({}, Resources((Node(8, 1, 10**11, (300_000,), "a"),)), True),
    ],
)
def test_cache_that_holds_no_prompt_of_the_longest_length_is_refused_with_the_arithmetic(
    speed: dict[str, Any], resources: Resources, fits: bool, tmp_path: Path
) -> None:
    # 64 bytes a token: 2 (keys, values) x 2 layers x 1 head x 4 wide x 4 bytes
    shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "hidden_size": 8}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    numerics = {"engine": "vllm", "dtype": "float32", "max_model_len": 2048}
    config = _config(tmp_path, speed={"engine_kwargs": speed}, numerics=numerics)
    found = preflight.cache_problems(config, resources, {"m": str(tmp_path)}, {"m": 100_000})
    assert bool(found) is not fits
    for problem in found:
        assert problem.gravity is Gravity.ERROR
        assert "one prompt of numerics.max_model_len 2048 tokens" in problem.text
        assert "kv_cache_memory_bytes to" in problem.text


@pytest.mark.parametrize("other", [{"sliding_window": 64}, {"kv_lora_rank": 8}, {"layer_types": ["mamba"]}])
def test_cache_of_a_model_that_keeps_less_than_every_token_is_not_guessed(
    other: dict[str, Any], tmp_path: Path
) -> None:
    shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 8}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    assert cache_bytes_a_token(str(tmp_path), "bfloat16") == 2 * 2 * 2 * 4 * 2
    (tmp_path / "config.json").write_text(json.dumps({**shape, **other}))
    assert cache_bytes_a_token(str(tmp_path), "bfloat16") is None


def test_models_that_a_node_cannot_load_refuse_the_run_and_a_late_node_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    save_file({"w": np.ones(1, np.float32)}, model / "model.safetensors")
    asked: list[tuple[Any, ...]] = []

    def held(*arguments: Any) -> dict[str, nodes.Told]:
        asked.append(arguments)
        return {"a": nodes.Told([]), "b": nodes.Told(nodes._faults({str(tmp_path / "away"): {"x": 1}}), None),
                "c": nodes.Told(None, "it did not answer in 9 seconds")}  # fmt: skip

    monkeypatch.setattr(preflight, "models_held", held)
    monkeypatch.setenv("SEMIEVOL_CACHE", str(tmp_path / "cache"))
    config = _config(tmp_path, model=str(model), numerics={"engine": "vllm"}, speed={"start_seconds": 9})
    context = Context(None, config, Progress(quiet=True), ExitStack())  # type: ignore[arg-type]
    reports = [
        nodes.NodeReport(name, cpus, gpus, None) for name, cpus, gpus in (("driver", 0, 0), ("a", 8, 1), ("d", 8, 0))
    ]

    wrong, late = preflight.model_problems(context, preflight.loaded_models(config), reports)

    ((sizes, hosts, seconds),) = asked
    assert {**sizes} == {
        str(model): {"config.json": 2, "model.safetensors": (model / "model.safetensors").stat().st_size}
    }
    assert (hosts, seconds) == ({"a"}, 9)
    assert (wrong.gravity, late.gravity) == (Gravity.ERROR, Gravity.WARNING)
    assert f"node b: the model's folder {tmp_path / 'away'} is not there" in wrong.text
    assert "node c: whether it has the models is not known: it did not answer in 9 seconds" in late.text


def test_models_that_nodes_load_are_those_of_the_engines_and_the_embedder_that_is_asked(tmp_path: Path) -> None:
    asked = {"embedder": "org/embedder", "collaborators": [{"demonstrations": 2}, {"model": "org/other"}]}
    config = _config(tmp_path, model="org/student", numerics={"engine": "vllm"}, method=asked)
    assert preflight.loaded_models(config) == ["org/student", "org/other", "org/embedder"]
    asked["collaborators"] = [{"demonstrations": 0}]
    config = _config(tmp_path, model="org/student", numerics={"engine": "vllm"}, method=asked)
    assert preflight.loaded_models(config) == ["org/student"]
