"""Study files: what each variant changes of the base, the grid around it, and every mistake with the nearest key."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from semievol_ray.config import RunConfig
from semievol_ray.errors import ConfigError
from semievol_ray.study.file import Study, load
from semievol_ray.study.variants import BUILT_IN, SEVEN, Making

BASE: dict[str, Any] = {
    "name": "base",
    "task": "wordnet",
    "data": {"labeled": {"path": "labeled.csv", "sample": 32}, "unlabeled": "pool.csv", "test": "/elsewhere/test.csv"},
    "model": "scripted",
    "method": {
        "select": {"theta": 0.4, "ties": "exact"},
        "collaborators": [
            {"demonstrations": 3},
            {"adapter": "warm"},
            {"adapter": "warm", "demonstrations": 3},
            {"name": "mine", "adapter": "warm", "demonstrations": 1, "sampling": {"temperature": 0.5}},
        ],
    },
    "guard": {"min_accepted": 4},
    "numerics": {"engine": "scripted"},
}


def _load(folder: Path, base: Any = BASE, **study: Any) -> Study:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({"name": "s", "base": base, **study}))
    return load(str(path))


def _configs(study: Study) -> dict[str, RunConfig]:
    return {variant.name: variant.config for variant in study.variants}


def _four(config: RunConfig) -> list[tuple[str, str, int]]:
    return [(c.name, c.adapter, c.demonstrations) for c in config.method.collaborators]


def test_study_without_variants_has_the_seven_and_three_seeds(tmp_path: Path) -> None:
    study = _load(tmp_path)
    assert tuple(v.name for v in study.variants) == SEVEN
    assert study.seeds == (0, 1, 2)
    semievol = next(v for v in study.variants if v.name == "semievol")
    assert semievol.compare == ("sft_matched", "naive", "confidence")


def test_base_file_and_inline_base_give_the_same_absolute_paths(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "run.yaml").write_text(
        yaml.safe_dump(
            {
                **BASE,
                "data": {
                    **BASE["data"],
                    "labeled": {"path": "../labeled.csv", "sample": 32},
                    "unlabeled": "../pool.csv",
                },
            }
        )
    )
    by_file, inline = (_configs(_load(tmp_path, base))["semievol"].data for base in ("configs/run.yaml", BASE))
    assert by_file == inline
    assert inline.labeled.path == str(tmp_path / "labeled.csv")
    assert inline.test is not None
    assert inline.test.path == "/elsewhere/test.csv"


def test_semievol_is_the_base_with_the_studys_overrides(tmp_path: Path) -> None:
    config = _configs(_load(tmp_path, overrides={"train.num_train_epochs": 7, "numerics": {"max_model_len": 99}}))[
        "semievol"
    ]
    assert (config.train.num_train_epochs, config.numerics.max_model_len) == (7, 99)
    assert config.numerics.engine == "scripted"
    assert config.method == _configs(_load(tmp_path))["vanilla"].method


def test_naive_and_confidence_are_the_warm_model_alone_and_differ_in_the_filter(tmp_path: Path) -> None:
    configs = _configs(_load(tmp_path))
    for name in ("naive", "confidence"):
        method = configs[name].method
        assert _four(configs[name]) == [("warm_0", "warm", 0)]
        assert method.collaborators[0].sampling.temperature == 0
        assert (method.justify.when, method.confidence) == ("never", "scored_nll")
    naive, confidence = (configs[name].method.select.model_dump() for name in ("naive", "confidence"))
    assert (naive["theta"], naive["ties"]) == (1.0, "all")
    assert (confidence["theta"], confidence["ties"]) == (0.4, "exact")


@pytest.mark.parametrize(
    ("name", "collaborators", "theta"),
    [
        ("without_in_weight", "base_3 none 3, base_0 none 0, base_3_2 none 3, mine none 1", 0.4),
        ("without_in_context", "base_0 none 0, warm_0 warm 0, warm_0_2 warm 0, mine warm 0", 0.4),
        ("without_collaboration", "warm_0 warm 0", 0.4),
        ("without_selection", "base_3 none 3, warm_0 warm 0, warm_3 warm 3, mine warm 1", 1.0),
    ],
)  # fmt: skip
def test_ablation_takes_away_one_thing(tmp_path: Path, name: str, collaborators: str, theta: float) -> None:
    config = _configs(_load(tmp_path, variants=[name]))[name]
    assert ", ".join(f"{n} {adapter} {k}" for n, adapter, k in _four(config)) == collaborators
    assert config.method.select.rule == "percentile"
    assert config.method.select.theta == theta
    assert (config.method.justify.when, config.method.confidence) == ("always", "mean_nll")
    assert config.guard.min_accepted == 4
    assert config.train == _configs(_load(tmp_path))["semievol"].train


@pytest.mark.parametrize(
    "warm", [{"warm_up": False, "collaborators": [{"demonstrations": 1}]}, {"warm_adapter": "lora"}]
)
def test_every_variant_can_be_made_of_a_base_without_a_warm_up_of_its_own(tmp_path: Path, warm: dict[str, Any]) -> None:
    configs = _configs(_load(tmp_path, {**BASE, "method": warm}, variants=list(BUILT_IN)))
    assert [c.name for c in configs["naive"].method.collaborators] == ["warm_0"]
    without = configs["without_in_weight"].method
    assert (without.warm_up, without.warm_adapter) == (False, None)


def test_variants_that_keep_everything_have_no_floor_of_precision_and_one_round(tmp_path: Path) -> None:
    base = {**BASE, "guard": {"min_precision": 0.9}, "data": {**BASE["data"], "dev": 8}, "method": {"rounds": 3}}
    configs = _configs(_load(tmp_path, base, variants=["naive", "without_selection", "confidence", "semievol"]))
    assert [configs[n].method.rounds.num for n in configs] == [1, 1, 3, 3]
    assert [configs[n].guard.min_precision for n in configs] == [None, None, None, 0.9]


def test_own_variant_lays_its_overrides_over_the_one_it_is_like(tmp_path: Path) -> None:
    rule = {"method.select": {"rule": "fdr", "target_error": 0.2}, "data.dev": 8}
    own = [
        {"name": "certified", "overrides": rule},
        {"name": "loose", "like": "confidence", "overrides": {"method.select.theta": 0.9}},
    ]
    study = _load(tmp_path, variants=["sft", "semievol", *own])
    configs = _configs(study)
    assert configs["certified"].method.select.model_dump(exclude_none=True) == {"rule": "fdr", "target_error": 0.2}
    assert configs["loose"].method.confidence == "scored_nll"
    assert configs["loose"].method.select.model_dump()["theta"] == 0.9
    assert study.variants[2].compare == ("semievol",)


def test_grid_changes_one_setting_at_a_time(tmp_path: Path) -> None:
    grid = {"theta": [0.2], "label_count": [16], "pool_ratio": [2.5], "num_collaborators": [2]}
    study = _load(tmp_path, variants=["sft"], grid=grid)
    configs = _configs(study)
    assert list(configs) == [
        "sft",
        "semievol-theta-0.2",
        "sft-labels-16",
        "semievol-labels-16",
        "semievol-pool-2.5",
        "semievol-collaborators-2",
    ]
    assert configs["semievol-theta-0.2"].method.select.model_dump()["ties"] == "exact"
    assert configs["semievol-theta-0.2"].method.select.model_dump()["theta"] == 0.2
    assert configs["semievol-labels-16"].data.labeled.sample == configs["sft-labels-16"].data.labeled.sample == 16
    assert configs["semievol-pool-2.5"].data.unlabeled.sample == 80
    assert _four(configs["semievol-collaborators-2"]) == [("base_3", "none", 3), ("warm_0", "warm", 0)]
    assert [v.sft for v in study.variants] == ["sft", "sft", "sft-labels-16", "sft-labels-16", "sft", "sft"]
    assert study.variants[2].making is Making.LABELS


def _own(key: str, value: Any) -> dict[str, Any]:
    return {"name": "x", "overrides": {key: value}}


@pytest.mark.parametrize(
    ("study", "told"),
    [
        ({"variant": ["sft"]}, "variant is not a known key; did you mean variants"),
        ({"variants": ["semievl"]}, "did you mean semievol?"),
        ({"variants": ["sft", "sft"]}, "sft occurs more than once"),
        ({"variants": ["sft", "sft_matched"]}, "takes its number of steps from semievol"),
        ({"variants": [{"name": "x", "overides": {}}]}, "did you mean variants.0.overrides"),
        ({"variants": [_own("method.select.thta", 1)]}, "variant x: method.select.thta is not a known key"),
        ({"variants": [_own("method.collaborators.0.adapter", "none")]}, "give the whole value of collaborators"),
        ({"variants": [{"name": "x", "compare": ["y"]}]}, "x is compared with y, which is not listed"),
        ({"seeds": [1, 1]}, "1 occurs more than once"),
        ({"seeds": []}, "seeds should have at least one entry"),
        ({"grid": {"thetas": [1]}}, "did you mean grid.theta"),
        ({"grid": {"num_collaborators": [9]}}, "grid.num_collaborators 9 is more than the 4 of the base"),
        ({"overrides": {"data.labeled.sample": None}, "grid": {"pool_ratio": [2]}}, "give the base a data.labeled"),
        ({"overrides": {"data.test": None}}, "data.test is missing"),
        ({"base": "nowhere.yaml"}, "nowhere.yaml: there is no such file"),
        ({"base": {**BASE, "modell": "x"}}, "modell is not a known key; did you mean model"),
    ],
)  # fmt: skip
def test_mistake_in_a_study_file_names_the_file_and_the_key(tmp_path: Path, study: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, **{"base": BASE, **study})
    assert told in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"), [("- a\n- b\n", "mapping of keys"), ("name: [", "line 1"), ("", "mapping of keys")]
)
def test_file_that_is_no_study_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(ConfigError, match=told):
        load(str(tmp_path / "study.yaml"))
