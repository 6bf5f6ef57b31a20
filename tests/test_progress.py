"""What a person watching sees, on a terminal and off it."""

import io

import pytest

from semievol_ray import progress
from semievol_ray.progress import Progress, duration


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    held = Clock()
    monkeypatch.setattr(progress, "time", held)
    return held


def test_plain_lines_say_rows_done_rate_and_time_left_every_ten_seconds(clock: Clock) -> None:
    out = io.StringIO()
    with Progress(out).step("round-1 base", 100, "answers", done=40) as bar:
        for _ in range(30):
            clock.seconds += 1
            bar.advance(1, "loss 0.5")
    lines = out.getvalue().splitlines()
    assert lines[0] == "round-1 base: 50/100 answers, 1.00/s, 50s left, loss 0.5"
    assert lines[-1] == "round-1 base: 70/100 answers, 1.00/s, 30s, done"
    assert len(lines) == 4


def test_slow_part_of_a_step_is_shown_only_once_it_takes_long(clock: Clock) -> None:
    quick, slow = io.StringIO(), io.StringIO()
    for out, seconds in ((quick, 0.4), (slow, 1.0)):
        with Progress(out).slow("count answers", 10) as bar:
            for _ in range(10):
                clock.seconds += seconds
                bar.advance()
    assert quick.getvalue() == ""
    assert slow.getvalue().splitlines() == [
        "count answers: 5/10 parts, 1.00/s, 5s left",
        "count answers: 10/10 parts, 1.00/s, 10s, done",
    ]


def test_step_that_fails_is_not_said_to_be_done() -> None:
    out = io.StringIO()
    with pytest.raises(ValueError, match="broken"), Progress(out).step("drafts", 10):
        raise ValueError("broken")
    assert "done" not in out.getvalue()


def test_terminal_gets_one_live_line_with_rows_and_rate() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    with Progress(out).step("drafts", 10) as bar:
        bar.advance(4, "3 errors")
    assert "4/10 rows" in out.getvalue()
    assert "3 errors" in out.getvalue()
    assert "/s" in out.getvalue()


def test_quiet_progress_writes_nothing(clock: Clock) -> None:
    out = io.StringIO()
    quiet = Progress(out, quiet=True)
    quiet.say("hello")
    with quiet.step("drafts", 10) as bar:
        clock.seconds += 60
        bar.advance()
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.4, "59s"), (59.6, "1m00s"), (190, "3m10s"), (3599.7, "1h00m"), (7500, "2h05m")]
)
def test_duration_reads_as_people_write_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text
