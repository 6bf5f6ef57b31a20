"""Log lines: JSON with what they are about, and without secrets."""

import json
import logging
from pathlib import Path

import pytest

from semievol_ray import logs


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_line_says_run_step_part_and_replica_as_fields(tmp_path: Path) -> None:
    path = tmp_path / "attempt.log"
    log = logs.bound("semievol_ray.worker", run="r", replica="a1")

    with logs.to_file(str(path)):
        log.info("part committed\nin two lines", extra={"about": {"step": "drafts", "part": "p", "num_rows": 3}})

    (line,) = lines(path)
    assert line["message"] == "part committed\nin two lines"
    assert {key: line[key] for key in ("run", "replica", "step", "part", "level")} == {
        "run": "r", "replica": "a1", "step": "drafts", "part": "p", "level": "info",
    }  # fmt: skip
    assert line["told"] == {"num_rows": 3}


def test_secrets_of_the_environment_and_of_addresses_are_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_API_KEY", "sk-verysecretvalue")
    path = tmp_path / "attempt.log"

    with logs.to_file(str(path)):
        logging.getLogger("semievol_ray.x").info("sent sk-verysecretvalue to http://ann:pw1@host/v1")

    assert lines(path)[0]["message"] == "sent *** to http://***@host/v1"


def test_part_is_logged_by_the_driver_only_when_rows_failed(tmp_path: Path) -> None:
    path = tmp_path / "attempt.log"
    heard = logs.EventLog("r")

    with logs.to_file(str(path)):
        for num_errors in (0, 2):
            heard({"kind": "part_committed", "step": "s", "part": f"p{num_errors}", "num_errors": num_errors})
        heard({"kind": "step_committed", "step": "s", "metrics": {"large": 1}})

    assert [(line["level"], line["step"], line.get("part")) for line in lines(path)] == [
        ("warning", "s", "p2"), ("info", "s", None),
    ]  # fmt: skip


def test_warning_reaches_the_terminal_too_and_nothing_is_left_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    room = logging.getLogger(logs.ROOM)
    before = list(room.handlers), room.level

    with logs.to_file(str(tmp_path / "attempt.log")):
        logging.getLogger("semievol_ray.lease").warning("the lease was not renewed")
        logging.getLogger("semievol_ray.lease").info("renewed")

    assert capsys.readouterr().err == "the lease was not renewed\n"
    assert (list(room.handlers), room.level) == before
