"""Lines that a run writes as it goes, and those who follow them: events.jsonl, the loss curve.

Invariant: on a disk a line is stored when `write` returns; in an object store, where nothing grows, lines wait for up
to LONGEST_SECONDS and are stored together, all of them once `close` has returned.
"""

import json
import logging
import threading
import time
from typing import Any

from semievol_ray import storage
from semievol_ray.errors import StorageError
from semievol_ray.records import now, parsed

SHORTEST_SECONDS, LONGEST_SECONDS, SHARE_OF_TIME = 2.0, 30.0, 0.01
"""Waits grow with the age of a log, so that a day makes some three thousand objects and a minute thirty."""

TAIL_BYTES = 1 << 16
"""Of a file's end, in which its last line is sought; a line of the loss curve has some 300."""

OFTEN = frozenset({"part_committed"})
"""Events that may wait; any other is stored soon after it happened."""

_log = logging.getLogger(__name__)


class LineLog:
    """Appends lines to a file from any thread, until `close`. Errors: StorageError, of an earlier line too."""

    def __init__(self, path: str) -> None:
        self._path, self._began = path, time.monotonic()
        self._lock, self._storing = threading.Lock(), threading.Lock()
        self._lines: list[str] = []
        self._number: int | None = None
        self._wake, self._closed = threading.Event(), False
        self._failed: StorageError | None = None
        self._thread: threading.Thread | None = None

    def write(self, line: str, *, soon: bool = False) -> None:
        """Add a line; `soon` has what waits stored at once, in a thread of its own."""
        if not storage.is_remote(self._path) or self._closed:
            storage.append_line(self._path, line)
            return
        if self._failed:
            raise self._failed
        with self._lock:
            self._lines.append(line)
            if self._thread is None:
                self._thread = threading.Thread(target=self._follow, name="semievol-lines", daemon=True)
                self._thread.start()
        if soon:
            self._wake.set()

    def close(self) -> None:
        """Store what waits; closing twice is fine."""
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        self._store()

    def _follow(self) -> None:
        while not self._closed:
            age = time.monotonic() - self._began
            self._wake.wait(min(max(SHORTEST_SECONDS, SHARE_OF_TIME * age), LONGEST_SECONDS))
            self._wake.clear()
            try:
                self._store()
            except StorageError as error:  # told to the next who writes
                self._failed = error
                return

    def _store(self) -> None:
        with self._storing:
            with self._lock:
                lines, self._lines = self._lines, []
            if not lines:
                return
            if self._number is None:
                self._number = len(storage.names(f"{self._path}.d"))
            self._number = storage.append_numbered(self._path, lines, self._number)


class EventLog:
    """events.jsonl of a run directory, as the driver with this fence writes it."""

    def __init__(self, root: str, fence: int) -> None:
        self._path, self._fence = f"{root}/events.jsonl", fence
        self._log = LineLog(self._path)

    def write(self, kind: str, **fields: object) -> None:
        """Add an event with the time of now."""
        line = {"time": now(), "kind": kind, "fence": self._fence, **fields}
        self._log.write(json.dumps(line), soon=kind not in OFTEN)

    def close(self) -> None:
        """Store what waits. What cannot be stored any more is only warned of: it must not hide why the run ends."""
        try:
            self._log.close()
        except StorageError as error:
            _log.warning("the last events of %s are lost: %s", self._path, error)


class LineReader:
    """What comes new into a file of lines that others append to; each byte, or object of a store, is read once."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._offset, self._seen = 0, set[str]()

    def new(self) -> list[str]:
        """The whole lines that came since the last call, in order; all of them where the file was begun anew."""
        if not storage.is_remote(self._path):
            size, data = storage.read_from(self._path, self._offset)
            if size < self._offset:
                self._offset = 0
                size, data = storage.read_from(self._path, 0)
            whole = data[: data.rfind(b"\n") + 1]
            self._offset += len(whole)
            return _split(whole)
        there = [name for name in storage.names(f"{self._path}.d") if name not in self._seen]
        self._seen.update(there)
        data = b"".join(storage.read_all([f"{self._path}.d/{name}" for name in there]))
        return _split(data)


def last_line(path: str) -> dict[str, Any] | None:
    """The last line of a file of JSON lines that others append to, from its end alone; None before the first."""
    if storage.is_remote(path):
        for name in reversed(storage.names(f"{path}.d")):
            if found := parsed(_split(storage.read(f"{path}.d/{name}"))):
                return found[-1]
        return None
    _, data = storage.read_from(path, -TAIL_BYTES)
    found = parsed(_split(data[: data.rfind(b"\n") + 1]))
    return found[-1] if found else None


def _split(data: bytes) -> list[str]:
    return [line for line in data.decode(errors="replace").split("\n") if line]
