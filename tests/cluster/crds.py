"""KubeRay's custom resource definitions as JSON schemas that refuse what Kubernetes would drop in silence."""

from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "kuberay-crds"
ABSENT = "KubeRay's definitions are not beside the checkout (../shared/data/kuberay-crds)"


@cache
def schema(name: str) -> dict[str, Any]:
    """The schema v1 of `rayjobs` or `rayclusters`, every unlisted key refused; skips the test where it is absent."""
    path = FOLDER / f"{name}.yaml"
    if not path.exists():
        pytest.skip(ABSENT)
    definition = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (version,) = (v for v in definition["spec"]["versions"] if v["name"] == "v1")
    whole: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    whole["properties"]["metadata"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return closed(whole)


def closed(tree: Any) -> Any:
    """A structural schema in which an object may hold only the properties that are listed."""
    if isinstance(tree, list):
        return [closed(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    made = {key: closed(value) for key, value in tree.items() if key != "properties"}
    if "properties" in tree:
        made["properties"] = {key: closed(value) for key, value in tree["properties"].items()}
        if "additionalProperties" not in tree and not tree.get("x-kubernetes-preserve-unknown-fields"):
            made["additionalProperties"] = False
    return made


def errors(instance: Any, tree: dict[str, Any]) -> list[str]:
    """Where an object breaks its schema, and how."""
    found = jsonschema.Draft202012Validator(tree).iter_errors(instance)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]
