"""Reads a run's YAML file and dotted overrides into a `RunConfig`; every mistake becomes one `ConfigError`.

Invariant: relative data paths of the file are relative to the file's folder, those of overrides to the working directory.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from semievol_ray.config import RunConfig
from semievol_ray.errors import ConfigError


def load(path: str, overrides: Sequence[str] = ()) -> RunConfig:
    """The validated configuration of a YAML file with `key.sub=value` overrides laid over it."""
    tree = _anchored(_read(path), Path(path).resolve().parent)
    for override in overrides:
        key, value = _parse_override(override)
        _lay_over(tree, key.split("."), _anchored_value(key, value), key)
    return parse(tree, path)


def parse(tree: Mapping[str, Any], origin: str) -> RunConfig:
    """Validate a mapping; raises ConfigError naming `origin`, each wrong key, and the nearest valid one."""
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{origin}: " + "; ".join(_sentence(e) for e in error.errors())) from None


def _read(path: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file. Give the path of a run's YAML file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text ({error}).") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: not valid YAML: {getattr(error, 'problem', error)}.") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a run's configuration is a mapping of keys to values; this file holds none.")
    return tree


def _parse_override(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"-o {override}: an override is written key.sub=value, for example -o method.theta=0.4")
    try:
        return key, yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"-o {override}: the value is not valid YAML ({error}).") from None


def _lay_over(tree: Any, path: Sequence[str], value: Any, key: str) -> None:
    *parents, last = path
    for name in parents:
        tree = tree[_index(tree, name, key)] if isinstance(tree, list) else tree.setdefault(name, {})
        if not isinstance(tree, dict | list):
            raise ConfigError(f"-o {key}: {name} holds a plain value, not a mapping.")
    tree[_index(tree, last, key) if isinstance(tree, list) else last] = value


def _index(items: list[Any], name: str, key: str) -> int:
    if not name.isdigit() or int(name) >= len(items):
        raise ConfigError(f"-o {key}: {name!r} is not an index of a list of {len(items)} items (0 is the first).")
    return int(name)


def _anchored(tree: dict[str, Any], folder: Path) -> dict[str, Any]:
    data = tree.get("data")
    if not isinstance(data, dict):
        return tree
    return {**tree, "data": {k: _anchored_source(v, folder) for k, v in data.items()}}


def _anchored_source(source: Any, folder: Path) -> Any:
    if isinstance(source, str):
        return source if "://" in source else str((folder / Path(source).expanduser()).resolve())
    if isinstance(source, dict) and isinstance(source.get("path"), str):
        return {**source, "path": _anchored_source(source["path"], folder)}
    return source


def _anchored_value(key: str, value: Any) -> Any:
    """An override of a data path, made absolute; any other value as it is."""
    is_path = key.startswith("data.") and key.split(".")[-1] in {"labeled", "unlabeled", "test", "path"}
    return _anchored_source(value, Path.cwd()) if is_path else value


def _sentence(error: Any) -> str:
    """One validation error as a sentence with the dotted key and, for an unknown key, the nearest valid one."""
    location = [str(part) for part in error["loc"]]
    key = ".".join(location) or "configuration"
    if error["type"] == "extra_forbidden":
        valid = _fields_at(location[:-1])
        near = difflib.get_close_matches(location[-1], valid, n=1)
        hint = f"did you mean {near[0]}?" if near else f"valid keys here: {', '.join(valid)}"
        return f"{key} is not a known key; {hint}"
    if error["type"] == "missing":
        return f"{key} is missing"
    message = error["msg"].removeprefix("Value error, ")
    return f"{key}: {message} (got {error['input']!r})" if error["type"] != "value_error" else f"{key}: {message}"


def _fields_at(location: Sequence[str]) -> list[str]:
    model: type[BaseModel] = RunConfig
    for name in location:
        field = model.model_fields.get(name)
        if field is not None and (inner := _model_in(field.annotation)):
            model = inner
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for a in get_args(annotation) if (m := _model_in(a))), None)
