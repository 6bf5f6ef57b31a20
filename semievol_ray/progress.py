"""What a person watching a run sees: one live line a step, or plain lines where the output is no terminal.

Invariant: a step's line says rows done, of how many, the rate and the time left.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

PLAIN_SECONDS, SLOW_SECONDS = 10.0, 5.0


class Bar(Protocol):
    """One step under way."""

    def advance(self, amount: float = 1, note: str = "") -> None: ...


class Progress:
    """Writes to `stream` (stderr by default): a live line on a terminal, else a line each PLAIN_SECONDS."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet

    def say(self, message: str) -> None:
        """One line of its own."""
        if not self._quiet:
            print(message, file=self._stream, flush=True)

    @contextmanager
    def step(self, name: str, total: float, unit: str = "rows", done: float = 0) -> Iterator[Bar]:
        """Follow a step of `total` units of which `done` are done already."""
        if not self._quiet and self._stream.isatty():
            with _live(self._stream, name, total, unit, done) as bar:
                yield bar
        else:
            plain = _PlainBar(None if self._quiet else self._stream, name, total, unit, done)
            yield plain
            plain.end()

    @contextmanager
    def slow(self, name: str, total: float, unit: str = "parts") -> Iterator[Bar]:
        """Follow what is mostly over at once: nothing is shown before SLOW_SECONDS, then lines as those of a step."""
        bar = _PlainBar(None if self._quiet else self._stream, name, total, unit, 0, SLOW_SECONDS)
        yield bar
        if bar.is_shown:
            bar.end()


class _PlainBar:
    def __init__(
        self, stream: TextIO | None, name: str, total: float, unit: str, done: float, wait: float = PLAIN_SECONDS
    ) -> None:
        self._stream, self._name, self._total, self._unit = stream, name, total, unit
        self._done, self._first, self._wait, self.is_shown = done, done, wait, False
        self._began = self._last = time.monotonic()

    def advance(self, amount: float = 1, note: str = "") -> None:
        self._done += amount
        if time.monotonic() - self._last >= self._wait:
            self._last, self._wait, self.is_shown = time.monotonic(), PLAIN_SECONDS, True
            self._print(note)

    def end(self) -> None:
        self._print("done")

    def _print(self, note: str) -> None:
        if self._stream is None:
            return
        seconds = time.monotonic() - self._began
        rate = (self._done - self._first) / seconds if seconds > 0 else 0.0
        left = (
            f"{duration((self._total - self._done) / rate)} left" if rate > 0 and note != "done" else duration(seconds)
        )
        text = f"{self._name}: {self._done:g}/{self._total:g} {self._unit}, {rate:.2f}/s, {left}"
        print(text + (f", {note}" if note else ""), file=self._stream, flush=True)


@contextmanager
def _live(stream: TextIO, name: str, total: float, unit: str, done: float) -> Iterator[Bar]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    class RichBar:
        def advance(self, amount: float = 1, note: str = "") -> None:
            rows.update(task, advance=amount, note=note)
            seconds, here = time.monotonic() - began, rows.tasks[task].completed - done
            rows.update(task, rate=f"{here / seconds:.2f}/s" if seconds > 0 else "")

    began = time.monotonic()
    rows = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        TextColumn("{task.completed:.0f}/{task.total:.0f} " + unit),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(file=stream),
    )
    with rows:
        task = rows.add_task(name, total=total, completed=int(done), note="", rate="")
        yield RichBar()


def duration(seconds: float) -> str:
    """Seconds as a person reads them: 42s, 3m10s, 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
