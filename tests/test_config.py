from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from semievol_ray.config import RunConfig, SpeedConfig
from semievol_ray.core.answers import Choice, Labels, Number
from semievol_ray.taskconfig import TaskConfig


def run_config(**changes: Any) -> RunConfig:
    base = {"name": "a", "task": "wordnet", "data": {"labeled": "l.csv", "unlabeled": "u.csv"}, "model": "m"}
    return RunConfig.model_validate({**base, **changes})


def test_run_config_is_frozen() -> None:
    with pytest.raises(ValidationError):
        run_config().name = "b"  # type: ignore[misc]


@pytest.mark.parametrize("name", ["", "..", "a b", "a/b", ".hidden"])
def test_run_name_that_is_no_plain_folder_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        run_config(name=name)


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        ({"kind": "labels", "labels": ["a", "b"]}, Labels(("a", "b"))),
        ({"kind": "choice"}, Choice()),
        ({"kind": "number", "relative_tolerance": 0.01}, Number(0.01)),
    ],
)
def test_task_described_in_yaml_resolves_to_its_format(described: dict[str, Any], expected: object) -> None:
    task = run_config(task={"name": "t", "instruction": "i", **described}).resolve_task()

    assert task.format == expected


@pytest.mark.parametrize(
    "described",
    [
        {"kind": "labels", "labels": ["a", "a"]},
        {"kind": "choice", "labels": ["a", "b"]},
        {"kind": "number", "answer_template": "no place"},
    ],
)
def test_task_that_contradicts_itself_is_refused(described: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TaskConfig.model_validate({"name": "t", "instruction": "i", **described})


def test_unknown_task_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValidationError, match="did you mean 'wordnet'"):
        run_config(task="wordnt")


def test_data_columns_replace_the_tasks_own() -> None:
    data = {"labeled": "l.csv", "unlabeled": "u.csv", "columns": {"question": "text"}}

    columns = run_config(data=data).resolve_task().columns

    assert (columns.question, columns.answer) == ("text", "answer")


def test_engine_argument_that_changes_outputs_is_refused_under_speed() -> None:
    with pytest.raises(ValidationError, match=r"numerics\.engine_kwargs"):
        SpeedConfig.model_validate({"engine_kwargs": {"max_num_seqs": 4, "kv_cache_dtype": "fp8"}})


def test_batch_that_workers_cannot_share_is_refused() -> None:
    with pytest.raises(ValidationError, match="cannot be divided"):
        run_config(speed={"num_train_workers": 3})


def test_template_date_written_bare_in_yaml_stays_text() -> None:
    numerics = yaml.safe_load("template_date: 2025-01-31")

    assert run_config(numerics=numerics).numerics.template_date == "2025-01-31"


def test_scientific_notation_of_yaml_is_a_number() -> None:
    assert run_config(train=yaml.safe_load("learning_rate: 1e-4")).train.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"method": {"select": {"rule": "fdr"}}}, r"rule fdr needs data\.dev"),
        ({"method": {"select": {"rule": "precision_bound"}}}, r"rule precision_bound needs data\.dev"),
        ({"guard": {"min_precision": 0.8}}, r"guard\.min_precision needs data\.dev"),
        ({"data": {"dev": 2}, "method": {"rounds": 3}}, r"data\.dev 2 is fewer than a row for each of 3 rounds"),
        ({"method": {"rounds": {"num": 2, "patience": 1}}}, r"rounds\.patience needs data\.validation"),
    ],
)
def test_setting_that_needs_labels_held_out_is_refused_without_them(changes: dict[str, Any], told: str) -> None:
    data = {"labeled": "l.csv", "unlabeled": "u.csv", **changes.pop("data", {})}
    with pytest.raises(ValidationError, match=told):
        run_config(data=data, **changes)


def test_setting_that_needs_labels_held_out_is_taken_with_them() -> None:
    data = {"labeled": "l.csv", "unlabeled": "u.csv", "dev": 3, "validation": 1}
    rounds = {"num": 3, "patience": 1}

    config = run_config(data=data, method={"rounds": rounds, "select": {"rule": "fdr"}}, guard={"min_precision": 0.8})

    assert config.method.select.rule == "fdr"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"train": {"method": "full", "use_dora": True}}, r"method full trains no adapter, so that use_dora"),
        ({"speed": {"offload": "all", "zero_stage": 2}}, r"offload all needs zero_stage 3 or more, not 2"),
        ({"speed": {"offload": "optimizer", "zero_stage": 0}}, r"offload optimizer needs zero_stage 1 or more, not 0"),
        (
            {"train": {"method": "full"}, "numerics": {"adapter_serving": "dynamic"}},
            r"train\.method full cannot be served with numerics\.adapter_serving dynamic",
        ),
        (
            {"train": {"use_dora": True}, "numerics": {"adapter_serving": "dynamic"}},
            r"train\.use_dora cannot be served with numerics\.adapter_serving dynamic",
        ),
        ({"train": {"load_in_4bit": True}, "speed": {"zero_stage": 3}}, r"train\.load_in_4bit does not go with"),
        (
            {"numerics": {"train_dtype": "float16"}, "speed": {"zero_stage": 0}},
            r"train_dtype float16 has no checkpoints with speed\.zero_stage 0",
        ),
        ({"train": {"early_stopping": {"patience": 1}}}, r"train\.early_stopping needs data\.validation"),
    ],
)
def test_training_settings_that_contradict_each_other_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        run_config(**changes)
