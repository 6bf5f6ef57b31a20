"""Trying again: what failed for a moment is repeated after random waits that grow, for a limited time.

Invariant: only what the caller calls transient is repeated, and the last error leaves here as it was raised.
"""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backoff:
    """How long to go on: the n-th wait is uniform between 0 and min(longest, first x 2^n) ("full jitter").

    clock: monotonic seconds. No try begins later than `total_seconds` after the first one ended.
    """

    total_seconds: float = 60.0
    first_seconds: float = 0.2
    longest_seconds: float = 10.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    uniform: Callable[[float, float], float] = random.uniform


def retried(action: Callable[[], _T], is_transient: Callable[[BaseException], bool], backoff: Backoff, what: str) -> _T:
    """What `action` returns at its first success. `what` names it in the one warning of a repeated failure."""
    num_failed, began = 0, 0.0
    while True:
        try:
            return action()
        except Exception as error:
            began = began if num_failed else backoff.clock()
            wait = backoff.uniform(0, min(backoff.longest_seconds, backoff.first_seconds * 2.0**num_failed))
            if not is_transient(error) or backoff.clock() + wait - began > backoff.total_seconds:
                raise
            num_failed += 1
            if num_failed == 3:
                _log.warning("%s fails for now; trying again for up to %g s", what, backoff.total_seconds)
            backoff.sleep(wait)
