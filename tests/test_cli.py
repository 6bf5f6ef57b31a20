import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from semievol_ray import __version__, cli, configfile, summary
from semievol_ray.check import planned_steps
from semievol_ray.runs import read_events, read_steps
from semievol_ray.tables import paragraph, seconds, table
from tests.conftest import ScriptedRun, questions, run_here, write_config, write_rows

HEAVY = ("ray", "torch", "vllm", "transformers", "peft", "deepspeed", "faiss", "sentence_transformers")
LIGHT_TOO = ("numpy", "pyarrow", "pydantic", "yaml", "rich")


def semievol(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "semievol_ray.cli", *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "COLUMNS": "80", **environment},
    )


def modules_after(*arguments: str) -> set[str]:
    """The top-level modules that are loaded once a command has run."""
    code = (
        "import sys; from semievol_ray import cli\n"
        f"try: cli.main({list(arguments)!r})\nexcept SystemExit: pass\n"
        "print('MODULES', *sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    return set(out.rpartition("MODULES ")[2].split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], [], ["run", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    assert not modules_after(*arguments) & {*HEAVY, *LIGHT_TOO}


def test_help_answers_within_half_a_second() -> None:
    def elapsed() -> float:
        began = time.perf_counter()
        assert semievol("--help").returncode == 0
        return time.perf_counter() - began

    assert min(elapsed() for _ in range(3)) < 0.5


def test_no_command_prints_the_help() -> None:
    found = semievol()

    assert found.returncode == 0
    for verb in ("run", "check", "status", "explain", "evaluate"):
        assert f"\n    {verb} " in found.stdout


def test_version_is_the_packages() -> None:
    assert semievol("--version").stdout == f"semievol {__version__}\n"


def test_check_imports_no_engine(config_path: Path) -> None:
    assert not modules_after("check", str(config_path)) & set(HEAVY)


def test_check_prints_a_configuration_that_reads_back_as_the_same(
    config_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", str(config_path), "-o", "method.select.theta=0.25"]) == 0

    printed = yaml.safe_load(capsys.readouterr().out)
    assert configfile.parse(printed, "printed") == configfile.load(str(config_path), ["method.select.theta=0.25"])


def test_check_writes_nothing(config_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(config_path.parent)
    before = sorted(config_path.parent.iterdir())

    assert cli.main(["check", str(config_path)]) == 0

    assert sorted(config_path.parent.iterdir()) == before


def test_planned_steps_are_those_a_run_does(scripted_run: ScriptedRun) -> None:
    done = [name for name, _ in read_steps(str(scripted_run.root))]

    assert sorted(planned_steps(configfile.load(str(scripted_run.config)))) == sorted(done)


def test_planned_steps_without_test_split_evaluate_nothing(tmp_path: Path) -> None:
    path = write_config(tmp_path, data={"labeled": "labeled.csv", "unlabeled": "unlabeled.csv"})

    steps = planned_steps(configfile.load(str(path), ["name=other"]))

    assert "rounds/0001/train" in steps
    assert not [step for step in steps if step.endswith("evaluate") or step == "data/test"]


def test_run_of_a_finished_run_prints_its_table_within_five_seconds(scripted_run: ScriptedRun) -> None:
    began = time.perf_counter()
    found = semievol("run", str(scripted_run.config), "--run", str(scripted_run.root))

    assert time.perf_counter() - began < 5
    assert found.returncode == 0, found.stderr
    for told in (
        "untouched model",
        "labels only",
        "SemiEvol - labels only:",
        "precision before",
        str(scripted_run.root),
    ):
        assert told in found.stdout
    assert "starting Ray" not in found.stderr
    assert max(len(line) for line in found.stdout.splitlines() if str(scripted_run.root) not in line) <= 80


def test_summary_figures_are_those_of_the_rows(scripted_run: ScriptedRun) -> None:
    found = summary.summarise(str(scripted_run.root))
    by_model = {a.model: a for a in found.accuracies}

    assert list(by_model) == [summary.UNTOUCHED, summary.LABELS_ONLY, summary.SEMIEVOL]
    assert found.gain is not None
    gain = by_model[summary.SEMIEVOL].accuracy.value - by_model[summary.LABELS_ONLY].accuracy.value
    assert found.gain.value == pytest.approx(gain)
    assert found.gain.low <= found.gain.value <= found.gain.high
    labels = found.pseudo_labels[0]
    assert labels.num_rows == 65
    assert labels.coverage == labels.num_accepted / labels.num_rows


def test_summary_counts_the_time_of_a_shared_engine_once(scripted_run: ScriptedRun) -> None:
    root = str(scripted_run.root)
    times = [datetime.fromisoformat(event["time"]) for event in read_events(root)]
    spent = summary.summarise(root).seconds

    assert [name for name in spent if name.startswith("round-1 ")] == ["round-1 base engine", "round-1 warm engine"]
    assert sum(spent.values()) <= (max(times) - min(times)).total_seconds() + 1


def test_evaluate_prints_the_stored_evaluation(scripted_run: ScriptedRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(scripted_run.root)]) == 0

    printed = capsys.readouterr().out
    accuracy = summary.summarise(str(scripted_run.root)).accuracies[-1].accuracy.value
    assert f"accuracy: {100 * accuracy:.1f}%" in printed
    assert [line.split()[0] for line in printed.splitlines()[-3:]] == ["animal", "artifact", "plant"]


def test_evaluate_file_is_done_once_and_stored_under_its_digest(
    copied_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "more.csv"
    write_rows(data, questions(20, "other"), answers=True)

    with pytest.MonkeyPatch.context() as patch:
        run_here(patch)
        assert cli.main(["evaluate", str(copied_run), "--data", str(data)]) == 0
    first = capsys.readouterr().out
    second = semievol("evaluate", str(copied_run), "--data", str(data))

    assert second.returncode == 0, second.stderr
    assert "rows: 20 " in first
    assert second.stdout == first
    assert "starting Ray" not in second.stderr
    assert len(list((copied_run / "evaluations").glob("????????/data/step.json"))) == 1


def test_evaluate_of_an_unfinished_run_says_what_to_do(copied_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copied_run / "rounds/0001/evaluate/step.json").unlink()

    assert cli.main(["evaluate", str(copied_run)]) == 2
    assert "semievol run" in " ".join(capsys.readouterr().err.split())


def test_evaluate_with_other_base_weights_is_refused(
    copied_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path / "more.csv", questions(4, "other"), answers=True)
    step = copied_run / "rounds/0001/train/step.json"
    record = json.loads(step.read_text())
    record["inputs"]["model"] = "0" * 64
    step.write_text(json.dumps(record))

    assert cli.main(["evaluate", str(copied_run), "--data", str(tmp_path / "more.csv")]) == 2
    assert "000000000000 then" in " ".join(capsys.readouterr().err.split())


def test_interrupt_in_the_middle_of_a_run_ends_with_one_line_and_130(tmp_path: Path) -> None:
    slow, few = {"engine_kwargs": {"seconds_per_request": 600}}, {"collaborators": [{}]}
    data = {"labeled": "labeled.csv", "unlabeled": "unlabeled.csv", "near_duplicates": {"action": "off"}}
    config, root = write_config(tmp_path, speed=slow, method=few, data=data), tmp_path / "run"
    command = [sys.executable, "-m", "semievol_ray.cli", "run", str(config), "--run", str(root)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while process.poll() is None and not _asked(root):
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: Ray's own processes get it too
        error = process.communicate(timeout=60)[1]

    assert process.returncode == 130, error
    assert error.splitlines()[-1] == "semievol: stopped; the same command goes on from here."
    assert "Traceback" not in error
    assert "not running, not finished" in semievol("status", str(root)).stdout


def _asked(root: Path) -> bool:
    return any(event["kind"] == "session_started" for event in read_events(str(root)))


def test_broken_pipe_is_quiet(scripted_run: ScriptedRun) -> None:
    command = f"{sys.executable} -m semievol_ray.cli explain {scripted_run.root} {first_id(scripted_run)} | true"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=60)

    assert found.stderr == ""


def first_id(made: ScriptedRun) -> str:
    import pyarrow.parquet as pq

    return str(pq.read_table(made.root / "data/unlabeled/part-00000.parquet").column("id")[0])


def test_paragraph_wraps_whole_words_and_shows_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")

    assert paragraph("one two three four five\n\x1b[31mred") == "one two three four\nfive\n\\x1b[31mred"
    assert paragraph("a/very-long/path-without-any-blank x") == "a/very-long/path-without-any-blank\nx"


def test_table_aligns_words_left_and_figures_right() -> None:
    assert table(("step", "rows"), [("a", "10"), ("longer", "5")]) == "step    rows\na         10\nlonger     5"


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "-"), (0.04, "0.0s"), (9.96, "10s"), (59.6, "1m00s"), (190, "3m10s"), (7500, "2h05m")]
)
def test_seconds_are_shown_as_a_person_reads_them(value: float | None, shown: str) -> None:
    assert seconds(value) == shown
