"""What learns: module names are checked against the model, methods against what is installed."""

from collections.abc import Sequence

import pytest

from semievol_ray.config import TrainConfig
from semievol_ray.engines.trainable import load_base, refuse_unknown
from semievol_ray.errors import ConfigError, MissingExtraError

NAMES = ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj", "lm_head")


@pytest.mark.parametrize(
    "targets", ["all-linear", ("q_proj", "up_proj"), ("mlp.up_proj",), r".*\.(q|up)_proj", ("lm_head",)]
)
def test_target_modules_that_exist_are_taken(targets: str | Sequence[str]) -> None:
    refuse_unknown(targets, NAMES)


@pytest.mark.parametrize(
    ("targets", "missing"),
    [(("q_proj", "query"), "query"), ("q_proj", "q_proj"), (("_proj",), "_proj"), (r".*\.v_proj", r"\.v_proj")],
)
def test_target_modules_that_do_not_exist_are_refused_naming_those_that_do(
    targets: str | Sequence[str], missing: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        refuse_unknown(targets, NAMES)
    assert missing in str(refused.value).partition("Its layers")[0]
    assert "Its layers are lm_head, q_proj, up_proj." in str(refused.value)


def test_four_bits_without_bitsandbytes_are_refused_with_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semievol_ray.engines.trainable.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"train\.load_in_4bit .* pip install bitsandbytes"):
        load_base("nowhere", TrainConfig(load_in_4bit=True), "float32", packs_on_gpu=False)
