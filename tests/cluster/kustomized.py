"""What `kubectl kustomize` makes of a folder, for the few fields that ours use; any other field is refused."""

import copy
from pathlib import Path
from typing import Any

import yaml

Tree = dict[str, Any]
FIELDS = {"apiVersion", "kind", "resources", "components", "patches", "configMapGenerator", "generatorOptions"}


def built(folder: Path) -> list[Tree]:
    """The objects of a kustomization: those of its resources, then of its components, patched."""
    return _applied(folder, [])


def patched(tree: Tree, operations: list[Tree]) -> Tree:
    """A tree after a JSON patch of add, replace and remove. Raises KeyError for a path that is not there."""
    made = copy.deepcopy(tree)
    for operation in operations:
        assert set(operation) <= {"op", "path", "value"}, operation
        *way, last = operation["path"].lstrip("/").split("/")
        place: Any = made
        for key in way:
            place = place[int(key)] if isinstance(place, list) else place[key]
        _change(place, last, operation)
    return made


def _change(place: Any, last: str, operation: Tree) -> None:
    key: Any = int(last) if isinstance(place, list) and last != "-" else last
    match operation["op"]:
        case "add" if last == "-":
            place.append(operation["value"])
        case "add":
            place[key] = operation["value"]
        case "replace" if place[key] is not None:
            place[key] = operation["value"]
        case "remove":
            del place[key]
        case other:
            raise ValueError(f"{other} {operation['path']}")


def _applied(folder: Path, found: list[Tree]) -> list[Tree]:
    said = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    assert set(said) <= FIELDS, f"{folder}: {set(said) - FIELDS}"
    for name in said.get("resources", ()):
        path = folder / name
        found = [*found, *(built(path) if path.is_dir() else yaml.safe_load_all(path.read_text(encoding="utf-8")))]
    found = [*found, *(_config_map(folder, told) for told in said.get("configMapGenerator", ()))]
    for name in said.get("components", ()):
        found = _applied(folder / name, found)
    for patch in said.get("patches", ()):
        found = _patched_where(found, patch["target"], yaml.safe_load(patch["patch"]))
    return found


def _config_map(folder: Path, told: Tree) -> Tree:
    data = {name: (folder / name).read_text(encoding="utf-8") for name in told["files"]}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": told["name"]}, "data": data}


def _patched_where(found: list[Tree], target: Tree, operations: list[Tree]) -> list[Tree]:
    assert set(target) == {"kind", "name"}, target
    chosen = [(tree["kind"], tree["metadata"]["name"]) == (target["kind"], target["name"]) for tree in found]
    assert any(chosen), f"no object is {target}"
    return [patched(tree, operations) if is_meant else tree for tree, is_meant in zip(found, chosen, strict=True)]
