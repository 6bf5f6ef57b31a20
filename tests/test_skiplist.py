"""The rule that a skipped test has to be on the committed list."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "skiplist.py"
SUITE = """
import pytest

@pytest.mark.skip(reason="no GPU")
def test_mark(): pass

@pytest.mark.parametrize("n", [1, 2])
def test_call(n):
    if n == 2:
        pytest.skip("no network")

@pytest.mark.xfail(reason="not yet")
def test_later(): assert False
"""
MODULE = 'import pytest\npytest.skip("no such library", allow_module_level=True)\n'
ALLOWED = """# why
test_some.py::test_mark | no GPU
test_some.py::test_call[2] | no network
test_some.py::test_later | not yet
test_module.py | no such library
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a real pytest run with every kind of skip."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_some.py").write_text(SUITE)
    (folder / "test_module.py").write_text(MODULE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=report.xml"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "report.xml"


def judge(report: Path, allowed: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    (tmp_path / "skips.txt").write_text(allowed)
    command = [sys.executable, str(SCRIPT), str(report), str(tmp_path / "skips.txt")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_skiplist_with_every_skip_listed_passes_and_prints_each(report: Path, tmp_path: Path) -> None:
    done = judge(report, ALLOWED, tmp_path)
    assert done.returncode == 0
    assert "test_some.py::test_call[2] | no network" in done.stdout
    assert "test_module.py | no such library" in done.stdout


@pytest.mark.parametrize("removed", ["test_mark", "test_call", "test_later", "test_module.py"])
def test_skiplist_with_one_skip_unlisted_fails_and_names_it(report: Path, tmp_path: Path, removed: str) -> None:
    fewer = "\n".join(line for line in ALLOWED.splitlines() if removed not in line)
    done = judge(report, fewer, tmp_path)
    assert done.returncode == 1
    [line] = [line for line in done.stdout.splitlines() if "NOT LISTED" in line]
    assert removed in line


def test_skiplist_with_a_listed_test_skipped_for_another_reason_fails(report: Path, tmp_path: Path) -> None:
    assert judge(report, ALLOWED.replace("no GPU", "no disk"), tmp_path).returncode == 1


def test_skiplist_without_a_report_fails(tmp_path: Path) -> None:
    assert judge(tmp_path / "report.xml", ALLOWED, tmp_path).returncode == 1
