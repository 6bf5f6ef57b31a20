"""The house holds: imports point one way, heavy libraries have one home, rooms stay small. Read with `ast` alone."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "semievol_ray"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / PACKAGE).rglob("*.py"))
}
# from the ground floor up; a module may import its own floor and those before it
FLOORS = [
    ["errors"],
    ["core"],
    ["taskmodules"],
    ["task"],
    ["tasks", "tables"],
    ["schema"],
    ["configerrors"],
    ["methodconfig", "taskconfig"],
    ["runtimeenv"],
    ["config"],
    ["configfile", "extras", "logs", "progress"],
    ["addresses", "backoff"],
    ["localdisk", "objectstore"],
    ["machine"],
    ["storage"],
    ["folders"],
    ["tracking"],
    ["deadline"],
    ["lease", "records", "sessions"],
    ["listing", "events"],
    ["cleaned"],
    ["steps"],
    ["alignment", "drift", "sharing"],
    ["runs"],
    ["inventory"],
    ["clean"],
    ["engines"],
    ["placement"],
    ["turns"],
    ["stages"],
    ["endpoint"],
    ["servable"],
    ["checks", "problems"],
    ["preflight"],
    ["check"],
    ["ending", "adoption"],
    ["driver"],
    ["doctor", "tunespace", "tune"],
    ["activity", "retries", "forecast", "starts"],
    ["sizes"],
    ["rehearsal"],
    ["dryrun"],
    ["status"],
    ["statuslines"],
    ["findings"],
    ["verify"],
    ["repair"],
    ["verifylines"],
    ["handover", "labelfile"],
    ["cleanlines", "summary", "explain", "evaluation", "export", "label", "outcomes"],
    ["modelcard"],
    ["modelexport"],
    ["planning"],
    ["reporting"],
    ["report"],
    ["study"],
    ["serve"],
    ["api"],
    ["arguments"],
    ["cli"],
]
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}
HEAVY = ("vllm", "torch", "transformers", "peft", "deepspeed", "faiss", "sentence_transformers")
MOST_LINES, MOST_FUNCTION_LINES = 300, 50


def _room(module: str) -> str:
    """The room of a module: its file, or its folder for those in core, engines and stages."""
    return module.split(".")[1] if "." in module else ""


def _imports(module: str) -> Iterator[str]:
    """Every absolute module name imported anywhere in a file, inside functions too."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively in line {node.lineno}"
            assert node.module is not None
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in whole)


def _own(module: str) -> set[str]:
    """Modules of the package that a module imports; the bare package (its version) is everyone's."""
    return {name for name in _imports(module) if name.split(".")[0] == PACKAGE and name != PACKAGE}


def _tops(module: str) -> set[str]:
    return {name.split(".")[0] for name in _imports(module)} - {PACKAGE}


def test_every_room_has_a_floor() -> None:
    assert {_room(module) for module in MODULES} - {""} == set(LEVEL)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_downwards_even_inside_functions(module: str) -> None:
    level = LEVEL.get(_room(module), len(FLOORS))  # the package itself offers what its rooms have, and imports lazily
    upward = {name for name in _own(module) if LEVEL[_room(name)] > level}
    assert upward == set()


def test_modules_import_each_other_in_no_circle() -> None:
    left = {module: _own(module) for module in MODULES}
    while free := {module for module, needs in left.items() if not needs & set(left) - {module}}:
        left = {module: needs for module, needs in left.items() if module not in free}
    assert left == {}


def test_ray_is_imported_in_placement_and_stages_alone() -> None:
    users = {module for module in MODULES if "ray" in _tops(module)}
    assert {_room(module) for module in users} <= {"placement", "stages"}


@pytest.mark.parametrize("library", HEAVY)
def test_heavy_library_is_imported_in_engines_alone(library: str) -> None:
    assert {_room(module) for module in MODULES if library in _tops(module)} == {"engines"}


def test_core_needs_numpy_and_the_standard_library_at_most() -> None:
    foreign = {top for module in MODULES if _room(module) == "core" for top in _tops(module)}
    assert foreign - set(sys.stdlib_module_names) <= {"numpy"}
    own = {_room(name) for module in MODULES if _room(module) == "core" for name in _own(module)}
    assert own <= {"core", "errors"}


@pytest.mark.parametrize(
    ("module", "light"), [("cli", False), ("driver", False), ("api", False), ("config", True), ("configfile", True)]
)
def test_importing_a_module_loads_nothing_heavy(module: str, light: bool) -> None:
    code = f"import sys, {PACKAGE}.{module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    forbidden = {*HEAVY, "ray", "pandas"} | ({"pyarrow", "numpy"} if light else set())
    assert forbidden & set(done.stdout.split()) == set()


def test_importing_the_package_loads_nothing_but_itself() -> None:
    code = f"import sys; before = set(sys.modules); import {PACKAGE}; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert {name for name in done.stdout.split() if name.partition(".")[0] not in sys.stdlib_module_names} == {PACKAGE}


def test_help_loads_neither_pydantic_nor_arrow() -> None:
    code = f"import sys, {PACKAGE}.cli; {PACKAGE}.cli.main([]); print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert {*HEAVY, "ray", "pydantic", "pyarrow", "numpy", "rich"} & set(done.stdout.splitlines()[-1].split()) == set()


def test_no_file_is_longer_than_300_lines() -> None:
    lengths = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in MODULES.items()}
    assert {module: n for module, n in lengths.items() if n > MOST_LINES} == {}


def test_no_function_is_longer_than_50_lines() -> None:
    long = {}
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                long[f"{module}.{node.name}"] = node.end_lineno - node.lineno + 1
    assert {name: n for name, n in long.items() if n > MOST_FUNCTION_LINES} == {}


def test_every_module_says_in_its_docstring_what_holds_in_it() -> None:
    told = {
        module: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "" for module, path in MODULES.items()
    }
    silent = {m for m, text in told.items() if "Invariant:" not in text and MODULES[m].name != "__init__.py"}
    assert silent == set()
