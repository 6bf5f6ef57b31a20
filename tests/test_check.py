"""The plan of a run against what runs do, and settings that a task cannot have."""

from pathlib import Path
from typing import Any

import pytest

from semievol_ray.check import planned_steps
from semievol_ray.checks import check_method, check_training
from semievol_ray.configfile import parse
from semievol_ray.errors import ConfigError
from semievol_ray.runs import read_steps
from tests.rundirs import changed, do_run, run_tree

HELD_OUT = {"dev": 4, "validation": 3}


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize(
    ("method", "data"),
    [
        ({"rounds": 2}, HELD_OUT),
        ({"rounds": {"num": 2, "reanswer": "all"}}, HELD_OUT),
        ({"rounds": 2, "retrieval": {"pool": "labeled+accepted"}}, {"near_duplicates": {"action": "report"}}),
        ({"rounds": 1, "collaborators": [{"adapter": "warm", "model": "org/other"}]}, {}),
        ({"rounds": 2, "warm_up": False, "collaborators": [{}]}, {"validation": 3}),
    ],
    ids=["held out", "answered again", "accepted rows shown", "another base", "no warm-up"],
)
def test_planned_steps_are_those_a_run_does_whatever_the_method(
    method: dict[str, Any], data: dict[str, Any], tmp_path: Path
) -> None:
    tree = run_tree(tmp_path, labeled=20, unlabeled=32, test=8)
    tree["method"] |= method
    tree["data"] |= data
    tree["guard"] = {"min_accepted": 1, "min_answers": 1}
    do_run(tree, tmp_path / "run")
    done = [name for name, record in read_steps(str(tmp_path / "run")) if record.get("committed")]
    assert sorted(planned_steps(parse(tree, "test"))) == sorted(done)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("method.confidence", "answer_posterior"),
        ("method.select.quota", 1.5),
        ("method.collaborators", [{"name": "mine", "sampling": {"structured": "choice"}}]),
    ],
    ids=["posterior", "quota", "structured"],
)
def test_setting_that_needs_a_closed_answer_set_is_refused_elsewhere(key: str, value: Any, tmp_path: Path) -> None:
    tree = changed(run_tree(tmp_path, labeled=4, unlabeled=4), key, value)
    check_method(parse(tree, "test"))
    with pytest.raises(ConfigError, match=rf"{key}.* needs a closed set of answers .* gsm8k are of kind number"):
        check_method(parse({**tree, "task": "gsm8k"}, "test"))


def test_chosen_answers_are_refused_where_the_engine_samples_freely(tmp_path: Path) -> None:
    collaborators = [{"name": "mine", "sampling": {"structured": "choice"}}]
    tree = changed(run_tree(tmp_path, labeled=4, unlabeled=4), "method.collaborators", collaborators)
    with pytest.raises(ConfigError, match=r"collaborators\.mine\.sampling\.structured needs numerics\.engine: vllm"):
        check_method(parse({**tree, "numerics": {"engine": "transformers"}}, "test"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no json", r"own\.json cannot be read as JSON"),
        ("[1]", "holds no JSON object"),
        ('{"gradient_clipping": 3.0}', r"gradient_clipping is 3\.0 there, and train\.max_grad_norm is 1\.0"),
        ('{"bf16": {"enabled": true}, "fp16": {"enabled": true}}', r"fp16\.enabled is True there"),
    ],
)
def test_deepspeed_json_in_conflict_with_the_configuration_is_refused_before_anything_starts(
    text: str, told: str, tmp_path: Path
) -> None:
    (tmp_path / "own.json").write_text(text, encoding="utf-8")
    tree = changed(run_tree(tmp_path, labeled=4, unlabeled=4), "speed.deepspeed", str(tmp_path / "own.json"))
    with pytest.raises(ConfigError, match=told):
        check_training(parse(tree, "test"))


def test_deepspeed_json_that_fits_one_kind_of_device_passes(tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text('{"bf16": {"enabled": true}, "gradient_clipping": "auto"}', encoding="utf-8")
    tree = changed(run_tree(tmp_path, labeled=4, unlabeled=4), "speed.deepspeed", str(tmp_path / "own.json"))
    check_training(parse(tree, "test"))
