"""pydantic's validation errors -> sentences about the keys a person wrote, with the nearest valid key.

Invariant: a key in a sentence is one that can be written in the file; no class and no union branch shows.
"""

import difflib
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel

_KINDS = {
    "string_type": "be text",
    "int_type": "be a whole number",
    "int_parsing": "be a whole number",
    "int_from_float": "be a whole number",
    "float_type": "be a number",
    "float_parsing": "be a number",
    "bool_type": "be true or false",
    "bool_parsing": "be true or false",
    "tuple_type": "be a list",
    "dict_type": "be a mapping of keys to values",
    "model_type": "be a mapping of keys to values",
    "model_attributes_type": "be a mapping of keys to values",
    "too_short": "have at least one entry",
    "string_pattern_mismatch": "match {pattern}",
}


def sentences(model: type[BaseModel], errors: Sequence[Any]) -> list[tuple[str, str]]:
    """(dotted key, sentence) for each mistake, in the order found; the errors of one union are one mistake."""
    found: dict[str, list[Any]] = {}
    for error in errors:
        found.setdefault(".".join(_keys(model, error)), []).append(error)
    told = [key for key in found if not (_is_outer(model, found[key]) and any(k.startswith(f"{key}.") for k in found))]
    return [(key, _sentence(model, key, found[key])) for key in told]


def _keys(model: type[BaseModel], error: Mapping[str, Any]) -> list[str]:
    """The error's location without the names of union branches that pydantic puts between the keys."""
    keys, at = [], model
    is_unknown = error["type"] == "extra_forbidden"
    for part in error["loc"][:-1] if is_unknown else error["loc"]:
        inside = _inside(at, part)
        if inside is not None:
            keys.append(str(part))
            at = inside
    return [*keys, str(error["loc"][-1])] if is_unknown else keys


def _is_outer(model: type[BaseModel], errors: Sequence[Any]) -> bool:
    """Whether the errors only follow from one further in: of a union's other branch, or a list left without items."""
    return all(e["type"] == "too_short" or len(e["loc"]) > len(_keys(model, e)) for e in errors)


def _inside(annotation: Any, part: str | int) -> Any:
    """The annotation of a field or of a list's items; None for what is neither."""
    if isinstance(part, int):
        return next((get_args(a)[0] for a in _alternatives(annotation) if get_origin(a) in (tuple, list)), None)
    models = (a for a in _alternatives(annotation) if isinstance(a, type) and issubclass(a, BaseModel))
    return next((m.model_fields[part].annotation for m in models if part in m.model_fields), None)


def _alternatives(annotation: Any) -> Iterator[Any]:
    """An annotation and, where it is a union or Annotated, what stands in it."""
    yield annotation
    if get_origin(annotation) not in (tuple, list, dict):
        for inner in get_args(annotation):
            yield from _alternatives(inner)


def _sentence(model: type[BaseModel], key: str, errors: Sequence[Any]) -> str:
    own = [error for error in errors if error["type"] == "value_error"]
    first = (own or errors)[0]
    match first["type"]:
        case "value_error":
            message = first["msg"].removeprefix("Value error, ")
            return f"{key}: {message}" if key else message
        case "extra_forbidden":
            return f"{key} is not a known key; {_hint(model, key.split('.'))}"
        case "missing":
            return f"{key} is missing"
        case "union_tag_invalid":
            *some, last = first["ctx"]["expected_tags"].split(", ")
            tag = f"{key}.{first['ctx']['discriminator'].strip(chr(39))}"
            return f"{tag} should be {', '.join(some)} or {last}, not {first['ctx']['tag']!r}"
        case _:
            wanted = list(dict.fromkeys(_wanted(error) for error in errors))
            rest = [f" or {phrase.removeprefix('be ')}" for phrase in wanted[1:]]
            return f"{key or 'the configuration'} should {wanted[0]}{''.join(rest)}{_but_is(first['input'], wanted)}"


def _wanted(error: Mapping[str, Any]) -> str:
    if error["type"] in _KINDS:
        return _KINDS[error["type"]].format(**error.get("ctx", {}))
    return re.sub(r"^\w+ should ", "", error["msg"])


def _but_is(value: Any, wanted: Sequence[str]) -> str:
    if value is None or value == () or value == []:
        return ", but is empty"
    in_quotes = wanted == [_KINDS["string_type"]] and not isinstance(value, list | dict)
    return f", not {reprlib.repr(value)}" + " (put it in quotes)" * in_quotes


def _hint(model: type[BaseModel], keys: Sequence[str]) -> str:
    """Where a wrong key may have been meant: a near one here, the same or a near one elsewhere, or what there is."""
    *parents, last = keys
    here: Any = model
    for parent in parents:
        here = _inside(here, int(parent) if parent.isdigit() else parent)
    valid = [name for m in _models(here) for name in m.model_fields]
    if last in valid:
        return f"it belongs to another kind of {'.'.join(parents)}"
    if near := difflib.get_close_matches(last, valid, n=1):
        return f"did you mean {'.'.join([*parents, near[0]])}"
    elsewhere = dict(_leaves(model))
    if near := difflib.get_close_matches(last, elsewhere, n=1, cutoff=0.8):
        return f"did you mean {elsewhere[near[0]]}"
    return f"valid keys here are {', '.join(valid)}"


def _models(annotation: Any) -> list[type[BaseModel]]:
    return [a for a in _alternatives(annotation) if isinstance(a, type) and issubclass(a, BaseModel)]


def _leaves(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, str]]:
    """(name, dotted key) of every field outside lists, the outermost last, so that it wins in a dict."""
    for name, field in model.model_fields.items():
        for inner in _models(field.annotation):
            yield from _leaves(inner, f"{above}{name}.")
    yield from ((name, f"{above}{name}") for name in model.model_fields)
