"""Joining or starting Ray, and mapping a plain function over parts with Ray Data.

Invariant: a cluster that this process started is stopped by it; one that it joined is left as it was.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from semievol_ray.errors import MissingExtraError, PlacementError


@contextmanager
def connected(address: str | None, log_path: str) -> Iterator[None]:
    """A Ray cluster for the block: `address` (or RAY_ADDRESS) joined, else a local one started.

    Raises MissingExtraError without ray and PlacementError when the address does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("runs need ray: pip install 'semievol-ray[cpu]' (or [cuda])") from error
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    try:
        ray.init(
            address=address,
            include_dashboard=False if address is None else None,
            logging_level=logging.WARNING,
            log_to_driver=False,
            configure_logging=True,
        )
    except ConnectionError as error:
        raise PlacementError(f"no Ray cluster answers at {address}: {error}. Start one with `ray start --head`.") from error
    try:
        _quiet(log_path)
        yield
    finally:
        ray.shutdown()


def map_parts(function: Callable[..., dict[str, Any]], parts: Sequence[str], **constants: Any) -> Iterator[dict[str, Any]]:
    """`function({"part": name}, **constants)` in Ray Data tasks, one a part; results as they come, in no order."""
    import ray

    if not parts:
        return
    items = [{"part": part} for part in parts]
    yield from ray.data.from_items(items, override_num_blocks=len(items)).map(function, fn_kwargs=constants).iter_rows()


def _quiet(log_path: str) -> None:
    """Ray's loggers write to the attempt's log file instead of the terminal."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    handler = logging.FileHandler(log_path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    for name in ("ray", "ray.data", "ray.train", "ray.tune"):
        logger = logging.getLogger(name)
        for old in list(logger.handlers):
            logger.removeHandler(old)
        logger.propagate = False
        logger.addHandler(handler)
