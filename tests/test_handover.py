"""What is done with a finished run, elsewhere than where it was made: the cluster that is joined for it."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from semievol_ray import cli, open_run
from semievol_ray.errors import PlacementError
from semievol_ray.evaluation import evaluate_file
from semievol_ray.label import label_file
from semievol_ray.progress import Progress
from semievol_ray.serve import ServeSettings, serve_run
from tests.conftest import run_here
from tests.rundirs import changed, do_run, run_tree, write_questions

GONE, OTHER = "192.0.2.9:6379", "192.0.2.1:6379"
QUIET = Progress(quiet=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run made on a cluster that is no more; new rows lie beside it."""
    folder = tmp_path_factory.mktemp("elsewhere")
    write_questions(folder / "new.csv", 6)
    with pytest.MonkeyPatch.context() as patch:
        run_here(patch)
        do_run(changed(run_tree(folder, labeled=12, unlabeled=32, test=8), "speed.address", GONE), folder / "run")
    return folder


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The addresses at which Ray was asked for; the first time it is, what is under way ends."""
    addresses: list[str | None] = []

    @contextmanager
    def connected(address: str | None, _: str) -> Iterator[None]:
        addresses.append(address)
        raise PlacementError("this far and no further")
        yield

    monkeypatch.setattr("semievol_ray.stages.context.connected", connected)
    return addresses


def evaluated(root: str, new: str, _: str, address: str | None) -> None:
    evaluate_file(root, new, QUIET, address=address)


def labelled(root: str, new: str, out: str, address: str | None) -> None:
    label_file(root, new, out, progress=QUIET, address=address)


def labelled_from_python(root: str, new: str, out: str, address: str | None) -> None:
    open_run(root).label(new, out, progress=QUIET, address=address)


def served(root: str, _: str, __: str, address: str | None) -> None:
    serve_run(root, ServeSettings(port=0, address=address), QUIET)


@pytest.mark.parametrize("address", [None, OTHER])
@pytest.mark.parametrize("use", [evaluated, labelled, labelled_from_python, served])
def test_finished_run_is_used_on_the_cluster_that_is_named_now(
    finished: Path, joined: list[str | None], use: Callable[..., None], address: str | None, tmp_path: Path
) -> None:
    with pytest.raises(PlacementError, match="no further"):
        use(str(finished / "run"), str(finished / "new.csv"), str(tmp_path / "out.jsonl"), address)
    assert joined == [address]


@pytest.mark.usefixtures("without_ray")
def test_finished_run_is_used_with_as_many_engines_as_are_named_now(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, new, out = tmp_path / "run", str(finished / "new.csv"), str(tmp_path / "out.csv")
    shutil.copytree(finished / "run", root)
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["config"]["speed"]["num_replicas"] = 64
    (root / "manifest.json").write_text(json.dumps(manifest))
    for command in (
        ["evaluate", str(root), "--data", str(finished / "test.csv")],
        ["label", str(root), new, "-o", out],
    ):
        assert cli.main(command) == 2
        assert "speed.num_replicas 64 does not fit" in " ".join(capsys.readouterr().err.split())
        assert cli.main([*command, "--replicas", "1"]) == 0


def test_commands_hand_the_address_on(finished: Path, joined: list[str | None], tmp_path: Path) -> None:
    root, new, out = str(finished / "run"), str(finished / "new.csv"), str(tmp_path / "out.csv")
    for command in (["evaluate", root, "--data", new], ["label", root, new, "-o", out]):
        assert cli.main([*command, "--address", OTHER]) == 2
    assert joined == [OTHER, OTHER]


def test_configuration_of_a_run_tells_the_cluster_that_it_was_made_on(finished: Path) -> None:
    assert open_run(str(finished / "run")).config.speed.address == GONE
