from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from semievol_ray import configfile
from semievol_ray.config import RunConfig
from semievol_ray.errors import ConfigError

BASE: dict[str, Any] = {
    "name": "a",
    "task": "wordnet",
    "data": {"labeled": "l.csv", "unlabeled": "u.csv"},
    "model": "m",
}


def written(folder: Path, **changes: object) -> str:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**BASE, **changes}))
    return str(path)


def refusal(changes: Mapping[str, Any]) -> str:
    with pytest.raises(ConfigError) as raised:
        configfile.parse({**BASE, **changes}, "run.yaml")
    return str(raised.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"methd": {}}, "methd is not a known key; did you mean method"),
        (
            {"method": {"select": {"teta": 1}}},
            "method.select.teta is not a known key; did you mean method.select.theta",
        ),
        ({"theta": 0.4}, "theta is not a known key; did you mean method.select.theta"),
        ({"method": {"theta": 1}}, "method.theta is not a known key; did you mean method.select.theta"),
        (
            {"method": {"select": {"rule": "fdr", "theta": 1}}},
            "method.select.theta is not a known key; it belongs to another kind of method.select",
        ),
        ({"data": {**BASE["data"], "columns": {"qestion": "q"}}}, "did you mean data.columns.question"),
        (
            {"method": {"collaborators": [{"demonstrations": 1}, {"demonstration": 3}]}},
            "collaborators.1.demonstration is not a known key; did you mean method.collaborators.1.demonstrations",
        ),
        (
            {"method": {"collaborators": [{"sampling": {"temprature": 3}}]}},
            "did you mean method.collaborators.0.sampling.temperature",
        ),
        (
            {"task": {"name": "x", "kind": "choice", "instruction": "a", "option_first": True}},
            "mean task.options_first",
        ),
    ],
)
def test_parse_unknown_key_names_the_nearest_valid_one(changes: dict[str, Any], told: str) -> None:
    assert told in refusal(changes)


def test_parse_unknown_key_without_a_near_one_lists_the_keys() -> None:
    assert "valid keys here are path, sample" in refusal({"data": {**BASE["data"], "labeled": {"path": "l", "zzz": 1}}})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"task": 3}, "run.yaml: task should be text or a mapping of keys to values, not 3."),
        ({"task": {"name": "x", "kind": "labels"}}, "run.yaml: task.instruction is missing."),
        (
            {"task": {"name": "x", "kind": "lables", "instruction": "a"}},
            "run.yaml: task.kind should be 'labels', 'choice', 'number', 'span' or 'free', not 'lables'.",
        ),
        ({"speed": {"part_rows": "many"}}, "run.yaml: speed.part_rows should be a whole number or 'auto', not 'many'."),
        ({"train": {"target_modules": ["q", 3]}}, "train.target_modules.1 should be text, not 3 (put it in quotes)."),
        ({"train": {"lora_r": 0}}, "run.yaml: train.lora_r should be greater than 0, not 0."),
        ({"train": {"learning_rate": "fast"}}, "run.yaml: train.learning_rate should be a number, not 'fast'."),
        ({"name": 7}, "run.yaml: name should be text, not 7 (put it in quotes)."),
        ({"method": None}, "run.yaml: method should be a mapping of keys to values, but is empty."),
        ({"method": {"collaborators": []}}, "method.collaborators should have at least one entry, but is empty."),
        ({"data": {"labeled": 3, "unlabeled": "u"}}, "data.labeled: a path, or a mapping with a path, was expected"),
        ({"data": {"unlabeled": "u"}}, "run.yaml: data.labeled is missing."),
        ({"method": {"select": 3}}, "method.select should be a mapping of keys to values, not 3."),
        ({"method": {"select": {"theta": 2}}}, "method.select.theta should be less than or equal to 1, not 2."),
        (
            {"method": {"select": {"rule": "bound"}}},
            "run.yaml: method.select.rule should be 'percentile', 'precision_bound' or 'fdr', not 'bound'.",
        ),
        ({"method": {"rounds": 0}}, "method.rounds.num should be greater than or equal to 1, not 0."),
    ],
)
def test_parse_wrong_value_says_what_the_key_takes(changes: dict[str, Any], told: str) -> None:
    message = refusal(changes)

    assert told in message
    assert "\n" not in message
    for leaked in ("Config", "tuple", "str,", "literal[", "Input", "validator"):
        assert leaked not in message


def test_parse_several_mistakes_each_has_a_line() -> None:
    lines = refusal({"methd": {}, "train": {"lora_r": 0}}).splitlines()

    assert lines[0] == "2 settings are wrong:"
    assert [line.split()[1] for line in lines[1:]] == ["train.lora_r", "methd"]


def test_load_paths_of_the_file_are_relative_to_its_folder(tmp_path: Path) -> None:
    data = configfile.load(written(tmp_path)).data

    assert data.labeled.path == str(tmp_path / "l.csv")


def test_load_path_of_an_override_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    data = configfile.load(written(tmp_path), ["data.labeled=mine.csv", "data.unlabeled.path=pool.csv"]).data

    assert data.labeled.path == str(tmp_path / "elsewhere" / "mine.csv")
    assert data.unlabeled.path == str(tmp_path / "elsewhere" / "pool.csv")


def test_load_override_of_a_plain_path_can_add_a_sample(tmp_path: Path) -> None:
    source = configfile.load(written(tmp_path), ["data.labeled.sample=5"]).data.labeled

    assert (source.path, source.sample) == (str(tmp_path / "l.csv"), 5)


def test_load_override_reaches_into_a_list(tmp_path: Path) -> None:
    path = written(tmp_path, method={"collaborators": [{"name": "a"}, {"name": "b"}]})

    config = configfile.load(path, ["method.collaborators.1.demonstrations=3"])

    assert [c.demonstrations for c in config.method.collaborators] == [0, 3]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("method.select.theta", "key.sub=value"),
        ("=3", "key.sub=value"),
        ("method.select.theta=[", "not valid YAML"),
        ("method.select.theta.x=3", "-o method.select.theta.x"),
        ("name.sub=3", "name holds a plain value"),
        ("method.collaborators.7.name=x", "-o method.collaborators.7.name"),
        (
            "method.select.thetaa=.4",
            "-o method.select.thetaa: method.select.thetaa is not a known key; did you mean method.select.theta",
        ),
    ],
)
def test_load_bad_override_is_named(tmp_path: Path, override: str, told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        configfile.load(written(tmp_path, method={"select": {"theta": 0.3}, "collaborators": [{}]}), [override])

    assert told in str(raised.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [("a: [", "line 1, column 5"), ("- a\n", "holds none"), ("", "holds none"), ("a: \t b: c", "not valid YAML")],
)
def test_load_damaged_yaml_names_the_place(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)

    with pytest.raises(ConfigError, match=r"run\.yaml") as raised:
        configfile.load(str(path))

    assert told in str(raised.value)


def test_load_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        configfile.load(str(tmp_path / "none.yaml"))


def test_parse_what_was_dumped_is_the_same_configuration() -> None:
    config = configfile.parse({**BASE, "method": {"collaborators": [{}, {"adapter": "warm"}]}}, "run.yaml")

    dumped = yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))

    assert configfile.parse(dumped, "manifest.json") == config
    assert isinstance(config, RunConfig)
