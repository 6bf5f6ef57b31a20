"""Pieces of a round's work at once: engines on devices of their own, and what waits for endpoints, a thread each.

Invariant: the failure of one ends the others, and all have ended when `side_by_side` does.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar

from semievol_ray.errors import DeadlineReached

END_SECONDS = 60.0
"""How long the thread is waited for once it was told to end; it looks each second."""
_failed: ContextVar[tuple[threading.Event, ...]] = ContextVar("failed", default=())
"""Set where something failed: beside this, or beside what this is a piece of."""


class OvertakenError(Exception):
    """What runs beside this has failed, which is told there."""


def side_by_side(here: Callable[[], None], *beside: Callable[[], None]) -> None:
    """Do all, the first in this thread. Raises what any of them raises, which ends the others; so does Ctrl-C.

    A deadline ends each by itself, as it leaves its parts. A piece may itself be several side by side.
    """
    failed, raised, overtaken = threading.Event(), list[BaseException](), threading.Event()
    around, ends = _failed.get(), list[threading.Event]()

    def run(work: Callable[[], None], over: threading.Event) -> None:
        _failed.set((*around, failed))
        try:
            work()
        except OvertakenError:
            overtaken.set()
        except BaseException as error:
            raised.append(error)
            if not isinstance(error, DeadlineReached):
                failed.set()
        finally:
            over.set()

    before = _failed.set((*around, failed))
    try:
        for work in beside:
            ends.append(threading.Event())
            threading.Thread(target=run, args=(work, ends[-1]), name="beside", daemon=True).start()
        _then_wait(here, ends)
    except BaseException as error:
        failed.set()
        _wait(ends, END_SECONDS)
        if isinstance(error, OvertakenError | DeadlineReached) and (told := _failure(raised)):
            raise told from None
        raise
    finally:
        _failed.reset(before)
    if first := _failure(raised):
        raise first
    if overtaken.is_set():
        raise OvertakenError
    if raised:
        raise raised[0]


class Overtaking:
    """Hears each step of a session's Ray Data execution, which what is raised here ends; made in the thread that asks.

    Ray carries the class to its workers, which is why it holds nothing.
    """

    def __init__(self) -> None:
        self._failed = _failed.get()

    def before_execution_starts(self, executor: object) -> None: ...

    def on_execution_step(self, executor: object) -> None:  # noqa: ARG002
        if any(failed.is_set() for failed in self._failed):
            raise OvertakenError

    def after_execution_succeeds(self, executor: object) -> None: ...

    def after_execution_fails(self, executor: object, error: Exception) -> None: ...


def _then_wait(here: Callable[[], None], ends: Sequence[threading.Event]) -> None:
    try:
        here()
    except DeadlineReached:
        _wait(ends)
        raise
    _wait(ends)


def _wait(ends: Sequence[threading.Event], seconds: float | None = None) -> None:
    """Until all have ended; not by `join`, which takes a thread for ended when Ctrl-C interrupts it (bpo-45274)."""
    end = None if seconds is None else time.monotonic() + seconds
    for over in ends:
        over.wait(None if end is None else max(0.0, end - time.monotonic()))


def _failure(raised: Sequence[BaseException]) -> BaseException | None:
    """The first that is no deadline."""
    return next((error for error in raised if not isinstance(error, DeadlineReached)), None)
