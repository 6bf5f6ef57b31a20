"""Two pieces of a round's work at once: what waits for endpoints in a thread, beside what uses the cluster's devices.

Invariant: the failure of one ends the other, and both have ended when `side_by_side` does.
"""

import threading
from collections.abc import Callable
from contextvars import ContextVar

from semievol_ray.errors import DeadlineReached

END_SECONDS = 60.0
"""How long the thread is waited for once it was told to end; it looks each second."""
_failed: ContextVar[threading.Event | None] = ContextVar("failed", default=None)


class OvertakenError(Exception):
    """What runs beside this has failed, which is told there."""


def side_by_side(here: Callable[[], None], beside: Callable[[], None]) -> None:
    """Do both, the second in a thread. Raises what either raises, which ends the other; so does Ctrl-C.

    A deadline ends each by itself, as it leaves its parts.
    """
    failed, raised = threading.Event(), list[BaseException]()

    def run() -> None:
        _failed.set(failed)
        try:
            beside()
        except OvertakenError:
            return
        except BaseException as error:
            raised.append(error)
            if not isinstance(error, DeadlineReached):
                failed.set()

    thread = threading.Thread(target=run, name="beside", daemon=True)
    before = _failed.set(failed)
    thread.start()
    try:
        _then_join(here, thread)
    except BaseException as error:
        failed.set()
        thread.join(END_SECONDS)
        if isinstance(error, OvertakenError):
            raise raised[0] from None
        raise
    finally:
        _failed.reset(before)
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
        if self._failed and self._failed.is_set():
            raise OvertakenError

    def after_execution_succeeds(self, executor: object) -> None: ...

    def after_execution_fails(self, executor: object, error: Exception) -> None: ...


def _then_join(here: Callable[[], None], thread: threading.Thread) -> None:
    try:
        here()
    except DeadlineReached:
        thread.join()
        raise
    thread.join()
