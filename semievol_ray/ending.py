"""The end of a driver by its deadline: what stops it wherever it stands, and the sentence of what is left.

Invariant: whatever the deadline cuts off was not committed, so that the same command does it again and nothing else.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from semievol_ray.check import planned_steps
from semievol_ray.config import RunConfig
from semievol_ray.deadline import Deadline
from semievol_ray.errors import DeadlineReached
from semievol_ray.runs import Run, Step, read_steps

OVERTIME_SECONDS = 10.0
"""For engines to hand in what they finished and end; then the driver is interrupted wherever it waits."""


@contextmanager
def ended_by(deadline: Deadline | None, run: Run, config: RunConfig) -> Iterator[None]:
    """Within the block the deadline holds. Raises DeadlineReached, which says what is left, when it ended the block.

    Where engines do not see it (a fine-tuning, an engine that starts) the driver gets a SIGTERM, in the main thread
    alone, that must be one of KeyboardInterrupt there.
    """
    if deadline is None:
        yield
        return
    rang = threading.Event()
    alarm = threading.Timer(max(0.0, deadline.at + OVERTIME_SECONDS - time.time()), _ring, [rang])
    alarm.daemon = True
    if threading.current_thread() is threading.main_thread():
        alarm.start()
    try:
        yield
    except DeadlineReached as error:
        alarm.cancel()  # what is left may take a while to count
        raise _reached(str(error), run, config) from error
    except KeyboardInterrupt as error:
        alarm.cancel()
        if not rang.is_set():
            raise
        raise _reached(f"the deadline, {deadline.told}, has come", run, config) from error
    finally:
        alarm.cancel()


def left(config: RunConfig, root: str) -> str:
    """What is left of a run in a sentence: steps that are committed, the step under way, those not begun."""
    records, planned = dict(read_steps(root)), planned_steps(config)
    done = sum(bool(records.get(name, {}).get("committed")) for name in planned)
    parts = []
    for name, record in records.items():
        step = Step(f"{root}/{name}", name, tuple(record["parts"]))
        if not record.get("committed") and (num := len(step.missing_parts())):
            parts.append(f"{name} lacks {num} of {len(step.parts)} parts")
    listed = "; ".join([f"{done} of {len(planned)} steps are committed", *parts[:3]])
    more = f", and {len(parts) - 3} more under way" if len(parts) > 3 else ""
    return f"{listed}{more}. The same command goes on from here."


def _reached(why: str, run: Run, config: RunConfig) -> DeadlineReached:
    told = f"{why}. {left(config, run.root)}"
    run.event("deadline_reached", why=told)
    return DeadlineReached(told)


def _ring(rang: threading.Event) -> None:
    rang.set()
    os.kill(os.getpid(), signal.SIGTERM)
