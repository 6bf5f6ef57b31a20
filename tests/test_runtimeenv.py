"""Environments of a step's own: what may stand in them, and who is placed with them."""

from typing import Any

import pytest
from pydantic import ValidationError

from semievol_ray.config import SpeedConfig
from semievol_ray.placement import Node, Resources, place
from semievol_ray.runtimeenv import FIELDS, RuntimeEnvConfig


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"pipp": ["a"]}, "pipp: no field of a runtime_env; they are conda"),
        ({"env_vars": {"HF_TOKEN": "hf_abc"}}, "HF_TOKEN looks like a secret"),
        ({"env_vars": {"AWS_SECRET_ACCESS_KEY": "abc"}}, "AWS_SECRET_ACCESS_KEY looks like a secret"),
        ({"env_vars": {"HF_TOKEN": "${HF_TOKEN}abc"}}, "write ${HF_TOKEN} here"),
        ({"env_vars": {"OMP_NUM_THREADS": 4}}, "put numbers in quotes"),
        ({"env_vars": ["A"]}, "a mapping of names to texts"),
        ({"pip": ["a", "--index-url=https://me:abc@host/simple"]}, "an address holds a user or a password"),
        ({"env_vars": {"HTTPS_PROXY": "http://me:abc@host:3128"}}, "an address holds a user or a password"),
    ],
)
@pytest.mark.parametrize("step", ["generate", "train"])
def test_environment_with_a_wrong_or_a_secret_part_is_refused(step: str, env: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as refused:
        RuntimeEnvConfig.model_validate({step: env})

    assert told in str(refused.value.errors()[0]["msg"])


def test_environment_names_secrets_of_the_nodes_and_whatever_is_none() -> None:
    env = {"env_vars": {"HF_TOKEN": "${HF_TOKEN}", "TOKENIZERS_PARALLELISM": "false"}, "pip": ["peft==0.21.0"]}

    assert RuntimeEnvConfig.model_validate({"train": env}).train == env


def test_fields_are_those_that_ray_knows() -> None:
    from ray.runtime_env import RuntimeEnv

    own = {"java_jars", "worker_process_setup_hook"}  # of Java, and of whole jobs
    assert {name for name in RuntimeEnv.known_fields if not name.startswith("_")} - own == FIELDS


@pytest.mark.parametrize("num_replicas", ["auto", {"min": 1, "max": 2}])
def test_engines_are_placed_with_the_environment_of_generation(num_replicas: Any) -> None:
    env = {"env_vars": {"A": "b"}}
    speed = SpeedConfig.model_validate({"num_replicas": num_replicas, "runtime_env": {"generate": env}})

    assert place(speed, Resources((Node(2, 0),))).runtime_env == env
