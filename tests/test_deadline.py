"""Deadlines: where they come from, and a run that one stops and the same command finishes."""

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from semievol_ray import cli, configfile, driver, ending
from semievol_ray.config import RunConfig
from semievol_ray.deadline import Deadline, chosen
from semievol_ray.ending import OVERTIME_SECONDS, ended_by, left
from semievol_ray.errors import DeadlineReached, UserError
from semievol_ray.progress import Progress
from semievol_ray.runs import Run, Step, read_events, read_steps
from semievol_ray.stages.context import Context
from tests.rundirs import changed, do_run, run_tree

NOW = 1_800_000_000.0


@pytest.mark.parametrize(("end", "at"), [(86400, 3600), (1200, 960)])
def test_deadline_is_the_one_that_was_given_unless_the_slurm_job_ends_sooner(end: int, at: int) -> None:
    found = chosen("+1h", {"SLURM_JOB_END_TIME": str(int(NOW) + end)}, NOW)
    assert found is not None
    assert found.at == NOW + at


@pytest.mark.parametrize(("seconds", "lead"), [(86400, 240), (600, 120)])
def test_deadline_in_a_slurm_job_lies_before_its_limit(seconds: int, lead: int) -> None:
    found = chosen(None, {"SLURM_JOB_END_TIME": str(int(NOW) + seconds)}, NOW)
    assert found is not None
    assert found.at == NOW + seconds - lead
    assert "time limit of the Slurm job" in found.told


@pytest.mark.parametrize("environment", [{}, {"SLURM_JOB_END_TIME": "unknown"}])
def test_without_any_limit_there_is_no_deadline(environment: dict[str, str]) -> None:
    assert chosen(None, environment, NOW) is None


@pytest.mark.parametrize(
    ("text", "told"), [("tomorrow", "no moment: give a time of day"), ("2020-01-01T00:00", "has passed: that was 2020")]
)
def test_deadline_that_is_none_or_has_passed_is_refused(text: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        chosen(text, {}, NOW)


def test_deadline_refuses_what_would_not_end_before_it() -> None:
    deadline = Deadline(time.time() + 600, "22:00")
    deadline.require("the fine-tuning", 60)
    with pytest.raises(DeadlineReached, match=r"the fine-tuning takes about 20m00s, and the deadline, 22:00, is 10m"):
        deadline.require("the fine-tuning", 1200)


@pytest.mark.usefixtures("without_ray")
def test_run_stops_at_its_deadline_with_whole_parts_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, root = run_tree(tmp_path, labeled=20, unlabeled=96, test=8), tmp_path / "run"
    slow = changed(tree, "speed.engine_kwargs.seconds_per_request", 0.2)
    answer_round = driver.answer_round

    def hurried(context: Context, *arguments: Any) -> list[Step]:
        context.until = Deadline(time.time() + 2.0, "soon")
        return answer_round(context, *arguments)

    monkeypatch.setattr(driver, "answer_round", hurried)
    deadline = Deadline(time.time() + 600, "later")

    with pytest.raises(DeadlineReached, match=r"of 16 steps are committed; .* lacks \d+ of 12 parts") as caught:
        driver.run(configfile.parse(slow, "test"), str(root), Progress(quiet=True), deadline=deadline)

    assert caught.value.exit_code == 75
    kept = {
        p: p.stat().st_mtime_ns for p in [*root.glob("base/evaluate/part-*"), *root.glob("rounds/0001/drafts/*/part-*")]
    }
    assert 0 < len(kept) < 25
    ended = [e for e in read_events(str(root)) if e["kind"] == "deadline_reached"]
    assert [e["why"] for e in ended] == [str(caught.value)]
    monkeypatch.setattr(driver, "answer_round", answer_round)
    do_run(tree, root)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert all(record.get("committed") for _, record in read_steps(str(root)))


def test_driver_that_waits_where_no_engine_sees_the_deadline_is_interrupted(tmp_path: Path) -> None:
    tree = run_tree(tmp_path, labeled=4, unlabeled=4)
    config = configfile.parse(tree, "test")
    past = Deadline(time.time() - OVERTIME_SECONDS + 0.2, "22:00")

    with Run.open(str(tmp_path / "run"), {"name": "small"}) as run:
        began = time.monotonic()
        with pytest.raises(DeadlineReached, match=r"the deadline, 22:00, has come\. 0 of"):
            _wait_under(past, run, config)

    assert time.monotonic() - began < 5


def _wait_under(deadline: Deadline, run: Run, config: RunConfig) -> None:
    with driver.terminated_as_interrupt(), ended_by(deadline, run, config):
        time.sleep(20)


def test_counting_what_is_left_is_not_interrupted_by_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configfile.parse(run_tree(tmp_path, labeled=4, unlabeled=4), "test")

    def slowly(*_: object) -> str:
        time.sleep(1.0)
        return "counted"

    monkeypatch.setattr(ending, "left", slowly)
    past = Deadline(time.time() - OVERTIME_SECONDS + 0.4, "22:00")
    with (
        Run.open(str(tmp_path / "run"), {"name": "small"}) as run,
        driver.terminated_as_interrupt(),
        pytest.raises(DeadlineReached, match="counted"),
        ended_by(past, run, config),
    ):
        raise DeadlineReached("the engines left")


def test_ctrl_c_before_the_deadline_stays_what_it_is(tmp_path: Path) -> None:
    config = configfile.parse(run_tree(tmp_path, labeled=4, unlabeled=4), "test")
    later = Deadline(time.time() + 600, "later")
    with (
        Run.open(str(tmp_path / "run"), {"name": "small"}) as run,
        pytest.raises(KeyboardInterrupt),
        ended_by(later, run, config),
    ):
        raise KeyboardInterrupt


@pytest.mark.usefixtures("without_ray")
def test_command_ends_with_75_at_its_deadline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = run_tree(tmp_path, labeled=20, unlabeled=32, test=8)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    monkeypatch.setattr(Deadline, "seconds_left", lambda _: -1.0)

    assert cli.main(["run", str(path), "--run", str(tmp_path / "run"), "--deadline", "+1h"]) == 75

    assert "The same command goes on from here" in " ".join(capsys.readouterr().err.split())


def test_what_is_left_names_three_steps_at_most(tmp_path: Path) -> None:
    config = configfile.parse(run_tree(tmp_path, labeled=4, unlabeled=4), "test")
    with Run.open(str(tmp_path / "run"), {"name": "small"}) as run:
        for name in ("a", "b", "c", "d", "e"):
            run.step(f"rounds/0001/drafts/{name}", settings={}, inputs={}, parts=["part-00000", "part-00001"])

        told = left(config, run.root)

    assert "rounds/0001/drafts/c lacks 2 of 2 parts, and 2 more under way" in told
    assert "drafts/d" not in told
