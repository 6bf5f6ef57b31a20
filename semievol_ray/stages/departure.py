"""A notice that this machine goes away (SIGTERM, as spot instances and pods get it): finish what is begun, then leave.

Invariant: after the notice no part is begun, and the process is gone within the grace period.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable

_LOOK_SECONDS = 0.1
_REPLY_SECONDS = 0.5
"""For the answers of the last calls to reach their caller."""


class Departure:
    """Leaves the process `grace_seconds` after SIGTERM, or as soon as `num_in_hand()` is 0; calls `leave` before."""

    def __init__(self, grace_seconds: float, num_in_hand: Callable[[], int], leave: Callable[[], None]) -> None:
        self.begun = threading.Event()
        self._grace_seconds, self._num_in_hand, self._leave = grace_seconds, num_in_hand, leave

    def arm(self) -> None:
        """Take SIGTERM over; only the main thread can.

        Ray's main thread sits in C++, where no Python handler runs, so that a thread of its own reads of the signal.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        threading.Thread(target=self._wait, args=(read_end,), name="departure", daemon=True).start()

    def _wait(self, read_end: int) -> None:
        while signal.SIGTERM not in os.read(read_end, 64):
            continue
        self.begun.set()
        deadline = time.monotonic() + self._grace_seconds
        while self._num_in_hand() and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
        with contextlib.suppress(Exception):  # whatever fails now, the process has to go
            self._leave()
        time.sleep(_REPLY_SECONDS)
        os._exit(1)
