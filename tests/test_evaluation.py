"""Which adapter of a run is evaluated: the one that it handed over."""

import os
import signal
from pathlib import Path

import pytest

from semievol_ray.errors import UserError
from semievol_ray.evaluation import evaluate_file, stored_evaluation
from semievol_ray.handover import trained
from semievol_ray.lease import require_free
from semievol_ray.planning.measured import driven_seconds
from semievol_ray.progress import Progress
from semievol_ray.runs import read_events, read_manifest
from semievol_ray.summary import summarise
from tests.rundirs import changed, do_run, metrics_of, run_tree, write_questions


@pytest.mark.usefixtures("without_ray")
def test_evaluation_is_of_the_round_that_the_run_handed_over(tmp_path: Path) -> None:
    tree = run_tree(tmp_path, labeled=24, unlabeled=32, test=8) | {"guard": {"min_accepted": 1, "min_answers": 1}}
    root = str(tmp_path / "run")
    done = do_run(changed(changed(tree, "method.rounds", 3), "data.validation", 4), Path(root))
    assert done.round < done.last_round == 3
    assert read_manifest(root)["final"]["round"] == done.round
    assert stored_evaluation(root).step == f"rounds/{done.round:04d}/evaluate"
    write_questions(tmp_path / "more.csv", 12)
    found = evaluate_file(root, str(tmp_path / "more.csv"), Progress(quiet=True))
    assert found.step.endswith(f"/round-{done.round:04d}")
    assert found.metrics == metrics_of(Path(root), found.step)


@pytest.mark.usefixtures("without_ray")
def test_what_is_evaluated_later_is_no_time_of_the_run(tmp_path: Path) -> None:
    root = tmp_path / "run"
    do_run(run_tree(tmp_path, labeled=12, unlabeled=32, test=8), root)
    spent, driven = summarise(str(root)).seconds, driven_seconds(read_events(str(root)))
    write_questions(tmp_path / "more.csv", 12)

    evaluate_file(str(root), str(tmp_path / "more.csv"), Progress(quiet=True))

    assert [event["command"] for event in read_events(str(root)) if event["kind"] == "run_started"] == [
        "run",
        "evaluate",
    ]
    assert summarise(str(root)).seconds == spent
    assert driven_seconds(read_events(str(root))) == driven


@pytest.mark.usefixtures("without_ray")
def test_terminated_evaluation_closes_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "run"
    do_run(run_tree(tmp_path, labeled=12, unlabeled=32, test=8), root)
    write_questions(tmp_path / "more.csv", 12)
    monkeypatch.setattr("semievol_ray.evaluation.answer", lambda *_: os.kill(os.getpid(), signal.SIGTERM))

    with pytest.raises(KeyboardInterrupt):
        evaluate_file(str(root), str(tmp_path / "more.csv"), Progress(quiet=True))

    assert read_events(str(root))[-1]["kind"] == "run_stopped"
    require_free(str(root))


@pytest.mark.usefixtures("without_ray")
def test_round_that_a_finished_run_does_not_have_is_told_with_those_that_it_has(tmp_path: Path) -> None:
    do_run(run_tree(tmp_path, labeled=12, unlabeled=32), tmp_path / "run")
    with pytest.raises(UserError, match=r"has no model of round 7; rounds with one: 0, 1\.$"):
        trained(str(tmp_path / "run"), 7)


@pytest.mark.usefixtures("without_ray")
def test_evaluation_of_a_run_without_test_split_says_how_to_give_a_file(tmp_path: Path) -> None:
    do_run(run_tree(tmp_path, labeled=12, unlabeled=32), tmp_path / "run")
    with pytest.raises(UserError, match="--data FILE"):
        stored_evaluation(str(tmp_path / "run"))
