"""Reads a run's YAML file and dotted overrides into a `RunConfig`; every mistake becomes one `ConfigError`.

Invariant: relative data paths of the file are relative to its folder, those of overrides to the working directory.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from semievol_ray import tasks
from semievol_ray.config import RunConfig
from semievol_ray.configerrors import sentences
from semievol_ray.errors import ConfigError

_SPLITS = ("labeled", "unlabeled", "test")


def load(path: str, overrides: Sequence[str] = ()) -> RunConfig:
    """The validated configuration of a YAML file with `key.sub=value` overrides laid over it."""
    tree = anchored(read_mapping(path, "run"), Path(path).resolve().parent)
    laid = [_parse_override(override) for override in overrides]
    for key, value in laid:
        _lay_over(tree, key.split("."), _anchored_value(key, value), key)
    return parse(tree, path, [key for key, _ in laid])


def at_address(config: RunConfig, address: str | None) -> RunConfig:
    """The configuration with another Ray cluster to join, where one is given."""
    speed = config.speed.model_copy(update={"address": address or config.speed.address})
    return config.model_copy(update={"speed": speed})


def parse(tree: Mapping[str, Any], origin: str, overridden: Sequence[str] = ()) -> RunConfig:
    """Validate a mapping; raises ConfigError naming `origin`, each wrong key, and the nearest valid one.

    A mistake in one of the `overridden` keys is told as one of `-o`.
    """
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        wrong = [f"{_origin(key, origin, overridden)}: {text}" for key, text in sentences(RunConfig, error.errors())]
        several = [f"{len(wrong)} settings are wrong:", *(f"  {line}" for line in wrong)]
        raise ConfigError("\n".join(several) if len(wrong) > 1 else f"{wrong[0]}.") from None


def _origin(key: str, origin: str, overridden: Sequence[str]) -> str:
    return next((f"-o {o}" for o in overridden if key == o or key.startswith(f"{o}.")), origin)


def read_mapping(path: str, kind: str) -> dict[str, Any]:
    """The mapping in a YAML file of a `kind` (a run, a study). Raises ConfigError naming file, line and column."""
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file. Give the path of a {kind}'s YAML file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text ({error}).") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: not valid YAML: {getattr(error, 'problem', error)}.") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a {kind}'s configuration is a mapping of keys to values; this file holds none.")
    return tree


def _parse_override(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(
            f"-o {override}: an override is written key.sub=value, for example -o method.select.theta=0.4"
        )
    try:
        return key, yaml.safe_load(text)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"-o {override}: the value is not valid YAML ({problem}).") from None


def _lay_over(tree: Any, path: Sequence[str], value: Any, key: str) -> None:
    *parents, last = path
    for name in parents:
        if isinstance(tree, dict) and tree.get(name) is None:
            tree[name] = {}
        tree = tree[_index(tree, name, key)] if isinstance(tree, list) else tree[name]
        if not isinstance(tree, dict | list):
            raise ConfigError(f"-o {key}: {name} holds a plain value, not a mapping.")
    tree[_index(tree, last, key) if isinstance(tree, list) else last] = value


def _index(items: list[Any], name: str, key: str) -> int:
    if not name.isdigit() or int(name) >= len(items):
        raise ConfigError(f"-o {key}: {name!r} is not an index of a list of {len(items)} items (0 is the first).")
    return int(name)


def anchored(tree: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A configuration whose relative paths of files and folders start at a folder, made absolute."""
    task, data = tree.get("task"), tree.get("data")
    if isinstance(task, str) and ":" in task:
        tree = {**tree, "task": tasks.anchored(task, str(folder))}
    if isinstance(method := tree.get("method"), dict) and isinstance(warm := method.get("warm_adapter"), str):
        tree = {**tree, "method": {**method, "warm_adapter": _anchored_path(warm, folder)}}
    if isinstance(speed := tree.get("speed"), dict) and isinstance(own := speed.get("deepspeed"), str):
        tree = {**tree, "speed": {**speed, "deepspeed": _anchored_path(own, folder)}}
    if not isinstance(data, dict):
        return tree
    splits = {k: _anchored_source(v, folder) if k in _SPLITS else v for k, v in data.items()}
    if isinstance(annotations := data.get("annotations"), list):
        splits["annotations"] = [_anchored_source(a, folder) for a in annotations]
    return {**tree, "data": splits}


def _anchored_source(source: Any, folder: Path) -> Any:
    """A split's source as a mapping with an absolute path; what is neither text nor a mapping stays, to be refused."""
    if isinstance(source, str):
        return {"path": _anchored_path(source, folder)}
    if isinstance(source, dict) and isinstance(source.get("path"), str):
        return {**source, "path": _anchored_path(source["path"], folder)}
    return source


def _anchored_path(path: str, folder: Path) -> str:
    return path if "://" in path else str((folder / Path(path).expanduser()).resolve())


def _anchored_value(key: str, value: Any) -> Any:
    """An override of a data path, made absolute; any other value as it is."""
    match key.split("."):
        case ["data", split] if split in _SPLITS:
            return _anchored_source(value, Path.cwd())
        case ["data", "annotations"] if isinstance(value, list):
            return [_anchored_source(item, Path.cwd()) for item in value]
        case ["method", "warm_adapter"] | ["speed", "deepspeed"] if isinstance(value, str):
            return _anchored_path(value, Path.cwd())
        case ["data", split, "path"] if split in _SPLITS and isinstance(value, str):
            return _anchored_path(value, Path.cwd())
    return value
