"""Joining or starting Ray, and mapping a plain function over parts with Ray Data.

Invariant: a cluster that this process started is stopped by it; one that it joined is left as it was.
"""

import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from semievol_ray import errors
from semievol_ray.errors import MissingExtraError, PlacementError, RunStopped, SemievolError

_OWN_ERROR = re.compile(r"^semievol_ray\.errors\.(\w+): (.+(?:\n.+)*)", re.MULTILINE)
_ANY_ERROR = re.compile(r"^[\w.]+(?:Error|Exception|Exit|Interrupt)\b.*", re.MULTILINE)


@contextmanager
def connected(address: str | None, log_path: str) -> Iterator[None]:
    """A Ray cluster for the block: `address` (or RAY_ADDRESS) joined, else a local one started.

    Raises MissingExtraError without ray and PlacementError when the address does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else Ray's C++ core writes into the progress lines
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("runs need ray: pip install 'semievol-ray[cpu]' (or [cuda])") from error
    if ray.is_initialized():
        yield
        return
    _quiet(log_path)
    address = address or os.environ.get("RAY_ADDRESS")
    try:
        with _stderr_to(log_path), _sigterm_kept():
            ray.init(
                address=address,
                include_dashboard=False if address is None else None,
                log_to_driver=False,
                configure_logging=False,
            )
    except ConnectionError as error:
        raise PlacementError(
            f"no Ray cluster answers at {address}: {error}. Start one with `ray start --head`."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _stderr_to(path: str) -> Iterator[None]:
    """What Ray's processes and its C++ core say while they start goes to the attempt's log."""
    sys.stderr.flush()
    terminal = os.dup(2)
    try:
        with Path(path).open("a", encoding="utf-8") as log:
            os.dup2(log.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)
        os.close(terminal)


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Ray's core takes SIGTERM over to print a stack; what was set before is set again."""
    ours = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, ours)


def map_parts(
    function: Callable[..., dict[str, Any]], parts: Sequence[str], **constants: Any
) -> Iterator[dict[str, Any]]:
    """`function({"part": name}, **constants)` in Ray Data tasks, one a part; results as they come, in no order."""
    import ray

    if not parts:
        return
    items = [{"part": part} for part in parts]
    yield from streamed(ray.data.from_items(items, override_num_blocks=len(items)).map(function, fn_kwargs=constants))


def streamed(dataset: Any) -> Iterator[dict[str, Any]]:
    """The rows of a Ray dataset as they come; what a worker raised is raised again, a foreign error as RunStopped."""
    from ray.exceptions import RayError

    try:
        yield from dataset.iter_rows()
    except RayError as error:
        raise raised_by_worker(str(error)) from error


def raised_by_worker(text: str) -> SemievolError:
    """The error in the text of a Ray exception: Ray carries the worker's traceback, but not the exception behind it."""
    if own := _OWN_ERROR.findall(text):
        name, message = own[-1]
        kind = getattr(errors, name, RunStopped)
        return kind(message) if isinstance(kind, type) and issubclass(kind, SemievolError) else RunStopped(message)
    foreign = [line for line in _ANY_ERROR.findall(text) if not line.startswith("ray.")]
    reason = foreign[0] if foreign else text.strip().split("\n")[0]
    return RunStopped(f"a worker failed: {reason}. Running the same command again does the missing parts.")


class _LogFile(logging.FileHandler):
    """A log that a full disk ends without a word: the run itself tells of the disk, once."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, ARG002
        return None


def _quiet(log_path: str) -> None:
    """Ray's loggers write to the attempt's log file instead of the terminal."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    handler = _LogFile(log_path)
    handler.setLevel(logging.INFO)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    for name in ("ray", "ray.data", "ray.train", "ray.tune"):
        logger = logging.getLogger(name)
        for old in list(logger.handlers):
            logger.removeHandler(old)
            old.close()
        logger.propagate = False
        logger.addHandler(handler)
