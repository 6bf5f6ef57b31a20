"""Trackers: a run's figures on their way to tensorboard, wandb and mlflow, each by a queue and a thread of its own.

Invariant: no tracker stops a run or holds it up. `log` only queues, `close` ends within CLOSE_SECONDS, and the first
failure of a tracker, whatever it is, is said once; after that it is silent.
"""

import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from numbers import Real
from queue import SimpleQueue

from semievol_ray.tracking.sinks import Point, Sink, Tracked, open_sink, public

CLOSE_SECONDS = 5.0
MOST_WAITING, MOST_AT_ONCE = 10_000, 100
_UNFIT = re.compile(r"[^\w\-. /]")


def open_trackers(
    names: Iterable[str], root: str, run_name: str, config: Mapping[str, object], say: Callable[[str], None]
) -> "Trackers":
    """Trackers of the run in the folder `root`; each is opened, beside the run, by the first point that it gets.

    config: the resolved configuration as JSON values. say: takes a warning, from any thread.
    """
    tracked = Tracked(root, run_name, config)
    return Trackers([_Feed(name, partial(open_sink, name, tracked), say) for name in dict.fromkeys(names)])


class Trackers:
    """The trackers of one run, from `open_trackers` to `close`. Every method may be called from any thread."""

    def __init__(self, feeds: Sequence["_Feed"]) -> None:
        self._feeds = feeds

    def log(self, group: str, values: Mapping[str, object], step: int) -> None:
        """Track the finite numbers among `values` as <group>/<key>; `step` counts from 0 within the group."""
        if measured := metrics(group, values):
            point = Point(group, measured, step, time.time())
            for feed in self._feeds:
                feed.put(point)

    def close(self) -> None:
        """Hand over what waits, for CLOSE_SECONDS together at most; closing twice is fine."""
        deadline = time.monotonic() + CLOSE_SECONDS
        for feed in self._feeds:
            feed.end()
        for feed in self._feeds:
            feed.wait(deadline - time.monotonic())


def metrics(group: str, values: Mapping[str, object]) -> dict[str, float]:
    """The finite numbers among some values by metric name; truth values are none."""
    named = ((_UNFIT.sub("_", f"{group}/{key}"), _finite(value)) for key, value in values.items())
    return {name: number for name, number in named if number is not None}


def _finite(value: object) -> float | None:
    if not isinstance(value, Real) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


class _Feed:
    """One tracker: what waits for it, and the thread in which it is opened, written to and closed."""

    def __init__(self, name: str, opened: Callable[[], Sink], say: Callable[[str], None]) -> None:
        self._name, self._opened, self._say = name, opened, say
        self._waiting: SimpleQueue[Point | None] = SimpleQueue()
        self._lock, self._over, self._num_dropped = threading.Lock(), False, 0
        self._thread: threading.Thread | None = None

    def put(self, point: Point) -> None:
        if self._over:
            return
        try:
            self._start()
        except RuntimeError as error:  # the system has no thread left
            self._give_up(_sentence(error))
        if self._waiting.qsize() < MOST_WAITING:
            self._waiting.put(point)
        else:
            self._num_dropped += 1

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:  # a daemon: a tracker that hangs does not keep the process from ending
                thread = threading.Thread(target=self._follow, name=f"tracker {self._name}", daemon=True)
                thread.start()
                self._thread = thread

    def end(self) -> None:
        """Let the thread close the tracker once it has written what waits."""
        self._waiting.put(None)

    def wait(self, seconds: float) -> None:
        """Join the thread for so long at most; then say what was lost, if anything."""
        if self._thread is not None:
            self._thread.join(max(0.0, seconds))
        if self._thread is not None and self._thread.is_alive():
            self._give_up(f"it did not answer for {CLOSE_SECONDS:g} s; what it had not taken yet is lost")
        elif self._num_dropped:
            self._give_up(f"it was too slow, {self._num_dropped} points were left out")
        self._over = True

    def _follow(self) -> None:
        sink: Sink | None = None
        try:
            sink = self._opened()
            while points := self._next():
                sink.write(points)
            sink.close()
        except (Exception, SystemExit) as error:  # foreign code on the side: no failure of it may reach the run
            self._give_up(_sentence(error))
            if sink is not None:
                _close_quietly(sink)

    def _next(self) -> list[Point]:
        """What waits, oldest first, at least one point; empty once the end was reached."""
        points: list[Point] = []
        while not points or (len(points) < MOST_AT_ONCE and not self._waiting.empty()):
            point = self._waiting.get()
            if point is None:
                self._waiting.put(None)  # found again at the next call, when these are written
                break
            points.append(point)
        return points

    def _give_up(self, why: str) -> None:
        with self._lock:
            first, self._over = not self._over, True
        if first:
            self._say(f"warning: tracker {self._name}: {why}. The run goes on without it.")


def _sentence(error: BaseException) -> str:
    """An error's first line, or its class where it says nothing, without a full stop."""
    lines = str(error).strip().splitlines()
    return str(public(lines[0][:300].rstrip(". "))) if lines else type(error).__name__


def _close_quietly(sink: Sink) -> None:
    try:
        sink.close()
    except Exception:
        return
