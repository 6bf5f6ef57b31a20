"""Environments of their own for engines and for fine-tuning workers: Ray's `runtime_env`, one for each.

Invariant: no secret stands in them, for a run keeps its configuration; one may be named, as ${HF_TOKEN}, and Ray fills
it in on each node.
"""

import re
from typing import Any

from pydantic import Field, field_validator

from semievol_ray.methodconfig import Part

FIELDS = frozenset(
    (
        "conda", "config", "container", "env_vars", "excludes", "image_uri", "pip", "py_executable", "py_modules", "uv",
        "working_dir",
    )
)  # fmt: skip
"""Of those that Ray takes for an actor."""
_SECRET = re.compile(r"(^|_)(key|token|secret|password|passwd|credentials?|authorization)$", re.IGNORECASE)
_LOGIN = re.compile(r"://[^/\s@]+@")
_REFERENCE = re.compile(r"^\$\{\w+\}$")


class RuntimeEnvConfig(Part):
    """What Ray makes for a step's workers before it starts them, on each node."""

    generate: dict[str, Any] = Field(
        default_factory=dict,
        description="Ray's `runtime_env` of engines, such as `{pip: [...]}`, `{env_vars: {...}}`; secrets as `${NAME}`",
    )
    train: dict[str, Any] = Field(default_factory=dict, description="the same of fine-tuning workers")

    @field_validator("generate", "train")
    @classmethod
    def _known_and_public(cls, value: dict[str, Any]) -> dict[str, Any]:
        if unknown := sorted(value.keys() - FIELDS):
            raise ValueError(f"{', '.join(unknown)}: no field of a runtime_env; they are {', '.join(sorted(FIELDS))}")
        variables = value.get("env_vars", {})
        if not isinstance(variables, dict) or not all(isinstance(text, str) for text in variables.values()):
            raise ValueError("env_vars has to be a mapping of names to texts; put numbers in quotes")
        for name, text in variables.items():
            if _SECRET.search(name) and not _REFERENCE.match(text):
                raise ValueError(
                    f"env_vars {name} looks like a secret, and a run keeps its configuration. Set it in the "
                    f"environment of the nodes, and write ${{{name}}} here"
                )
        if any(_LOGIN.search(text) for text in _texts(value)):
            raise ValueError("an address holds a user or a password, and a run keeps its configuration")
        return value


def _texts(value: Any) -> list[str]:
    """Every text within a value."""
    if isinstance(value, dict):
        return [text for item in value.items() for text in _texts(list(item))]
    return [text for item in value for text in _texts(item)] if isinstance(value, list) else [str(value)]
