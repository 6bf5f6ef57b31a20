"""The package as it is handed out: a wheel that installs into an empty environment, says its version and is typed."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from semievol_ray import __version__

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without a network from a copy of what it is made of."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "semievol_ray", source / "semievol_ray", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"
    built = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=source, capture_output=True, text=True, check=False, timeout=120
    )
    assert built.returncode == 0, built.stderr
    return folder / built.stdout.splitlines()[-1]


def test_wheel_holds_every_module_and_what_is_read_beside_them(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "semievol_ray"
    files = {p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert {str(path.relative_to(ROOT)) for path in files} <= held
    assert "semievol_ray/py.typed" in held
    others = {name for name in held if not name.startswith("semievol_ray")}
    assert others == set()


def test_wheel_installed_into_an_empty_environment_says_version_and_help(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "empty", with_pip=False, symlinks=True)
    python = tmp_path / "empty/bin/python"
    place = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, capture_output=True, check=True, timeout=120)
    assert Path(place, "semievol_ray/py.typed").exists()
    alone = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = tmp_path / "empty/bin/semievol"
    for arguments, wanted in ((["--version"], f"semievol {__version__}\n"), (["--help"], "label new rows")):
        said = subprocess.run(
            [command, *arguments], capture_output=True, text=True, check=True, env=alone, cwd=tmp_path
        )
        assert wanted in said.stdout
