"""Joining or starting Ray, and mapping a plain function over parts with Ray Data.

Invariant: a cluster that this process started is stopped by it; one that it joined is left as it was.
"""

import importlib
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from semievol_ray import errors
from semievol_ray.errors import ClusterError, MissingExtraError, PlacementError, RunStopped, SemievolError
from semievol_ray.stages.address import check_address, no_token, use_token

FEWEST_TASKS, TASKS_A_CPU, MOST_TASKS = 64, 4, 512
PARTS_AT_ONCE = 4
_OWN_ERROR = re.compile(r"^semievol_ray\.errors\.(\w+): (.+(?:\n.+)*)", re.MULTILINE)
_ANY_ERROR = re.compile(r"^[\w.]+(?:Error|Exception|Exit|Interrupt)\b.*", re.MULTILINE)


@contextmanager
def connected(address: str | None, log_path: str) -> Iterator[None]:
    """A Ray cluster for the block: `address` (or RAY_ADDRESS) joined, else a local one started.

    Raises MissingExtraError without ray, PlacementError when the address does not answer (within seconds), ClusterError
    when it asks for a token that this process has not, or is of another version of Ray or Python.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else Ray's C++ core writes into the progress lines
    try:
        import ray
        from ray.exceptions import AuthenticationError
    except ImportError as error:
        raise MissingExtraError("runs need ray: pip install 'semievol-ray[cpu]' (or [cuda])") from error
    if ray.is_initialized():
        yield
        return
    _quiet(log_path)
    address = address or os.environ.get("RAY_ADDRESS")
    check_address(address)
    try:
        with _stderr_to(log_path), _sigterm_kept():
            use_token(address)
            ray.init(
                address=address,
                include_dashboard=False if address is None else None,
                log_to_driver=False,
                configure_logging=False,
            )
    except AuthenticationError as error:
        raise ClusterError(no_token(address or "this machine")) from error
    except ConnectionError as error:
        raise PlacementError(
            f"no Ray cluster answers at {address}: {error}. Start one with `ray start --head`."
        ) from error
    except RuntimeError as error:
        if "Version mismatch" not in str(error):
            raise
        raise ClusterError(
            f"the cluster at {address} and this machine differ. {error}\nInstall the same versions on both."
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
    """`function({"part": name}, **constants)` for each part; results as they come, in no order.

    Ray Data tasks do many parts each, a few at once: a task costs about 15 ms, and a part mostly waits for its storage.
    """
    import ray

    if not parts:
        return
    num_cpus = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
    num_tasks = min(len(parts), FEWEST_TASKS + TASKS_A_CPU * num_cpus, MOST_TASKS)
    items = [{"parts": list(parts[i::num_tasks])} for i in range(num_tasks)]
    tasks = ray.data.from_items(items, override_num_blocks=num_tasks)
    many: Any = _do_parts
    yield from streamed(tasks.flat_map(many, fn_kwargs={"function": function, "constants": constants}))


def _do_parts(
    item: dict[str, Any], function: Callable[..., dict[str, Any]], constants: dict[str, Any]
) -> list[dict[str, Any]]:
    """In a Ray Data task: the results of its parts, in order."""
    with ThreadPoolExecutor(PARTS_AT_ONCE) as threads:
        return list(threads.map(lambda part: function({"part": str(part)}, **constants), item["parts"]))


def streamed(dataset: Any) -> Iterator[dict[str, Any]]:
    """The rows of a Ray dataset as they come; what a worker raised is raised again, a foreign error as RunStopped.

    Not iter_rows: that pickles the statistics of all blocks so far every five seconds, more with each part (of the
    driver's processor time 41% at 2,000 parts). Nor Ray Data's guard, which ends an execution without an output for
    half an hour: an endpoint's first part may take longer, and engines that stall are watched where they are.
    """
    import ray
    from ray.data.block import BlockAccessor
    from ray.exceptions import RayError

    dataset.context.execution_no_progress_timeout_s = -1
    try:
        for bundle in dataset.iter_internal_ref_bundles():
            for entry in bundle.blocks:
                yield from BlockAccessor.for_block(ray.get(entry.ref)).iter_rows(public_row_format=True)
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
    _raylets_to(logging.getLogger("ray"))


def _raylets_to(logger: logging.Logger) -> None:
    """What raylets tell of each process that ended goes to the log; Ray 2.60 prints it and has no switch for that."""
    worker: Any = importlib.import_module("ray._private.worker")
    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda data, *_, **__: logger.info("raylet: %s", " ".join(data.get("lines", ())))
