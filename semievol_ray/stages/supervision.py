"""The driver's ear while a session runs: tells of engines that end, and gives up where nothing else happens.

Invariant: as long as no part comes, a line says so at least each `stall_seconds`.
"""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from semievol_ray.engines.ladder import shown
from semievol_ray.errors import StorageError
from semievol_ray.progress import duration
from semievol_ray.stages import notices
from semievol_ray.stages.notices import ROWS_DONE, Board

LOOK_SECONDS = 1.0
MOST_ENDS, MOST_FAILED_STARTS = 40, 3
"""Ends of engines after which a session is given up, without a part, or rows of a part under suspicion, in between. The
first is more than it takes to come from 2,048 rows to one; the second counts starts that failed, per engine."""
_SENTENCES = {
    "engine_died": "an engine ended ({seen})",
    "engine_vanished": "an engine's process has gone: {seen}",
    "engine_stalled": "an engine stood still ({seen}) and was ended; see {report}",
    "engine_slow_start": "an engine takes long to start ({seen}); see {report}",
    "engine_start_failed": "an engine did not start ({seen})",
    "engine_out_of_memory": "an engine ran out of memory ({seen}) and starts again with smaller settings",
    "engine_left": "an engine leaves, for {seen}",
}
_ENDS = ("engine_died", "engine_vanished", "engine_stalled", "engine_start_failed")


@dataclass(frozen=True)
class Heard:
    """Where a supervisor speaks: a line for a person, and an event (kind and fields) for the run."""

    say: Callable[[str], None]
    event: Callable[..., None]


class Supervisor:
    """Reads a session's board in a thread of the driver, from `with` to the end of the block."""

    def __init__(self, name: str, board: Board, num_replicas: int, stall_seconds: float, heard: Heard) -> None:
        self._name, self._board, self._heard = name, board, heard
        self._num_replicas, self._stall_seconds = num_replicas, stall_seconds
        self._known: set[str] = set()
        self._ends = self._failed_starts = 0
        self._last = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="supervision", daemon=True)

    def __enter__(self) -> "Supervisor":
        notices.notices(self._board, self._known)  # what earlier sessions of this name left
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._look()
        with suppress(StorageError):
            self._tell_rung()

    def part_came(self) -> None:
        """A part, or rows of one, was answered: what ended before it was no end of everything."""
        self._ends = self._failed_starts = 0
        self._last = time.monotonic()

    def _listen(self) -> None:
        while not self._done.wait(LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        with suppress(StorageError):  # the next look may see it, and a run that cannot be stored stops elsewhere
            self._hear()

    def _hear(self) -> None:
        heard = notices.notices(self._board, self._known)
        new = [notice for notice in heard if notice["kind"] != ROWS_DONE]
        if len(new) < len(heard):
            self.part_came()
        for notice in new:
            self._tell(notice)
        self._give_up_where_hopeless(new)
        if time.monotonic() - self._last >= self._stall_seconds:
            self._last = time.monotonic()
            self._heard.say(f"{self._name}: no part has come for {duration(self._stall_seconds)}; {_cluster()}")

    def _tell(self, notice: Mapping[str, Any]) -> None:
        kind, parts = str(notice["kind"]), notice["parts"]
        self._last = time.monotonic()
        self._ends += kind in _ENDS
        self._failed_starts += kind == "engine_start_failed"
        fields = {key: value for key, value in notice.items() if key not in ("kind", "time", "fence")}
        self._heard.event(kind, session=self._name, **fields)
        again = f"; {len(parts)} part{'s' * (len(parts) != 1)} will be answered again" if parts else ""
        self._heard.say(f"{self._name}: {_SENTENCES[kind].format(**notice)}{again}")

    def _give_up_where_hopeless(self, new: list[dict[str, Any]]) -> None:
        if not new:
            return
        failed = self._failed_starts >= MOST_FAILED_STARTS * self._num_replicas
        if failed or self._ends >= max(MOST_ENDS, 4 * self._num_replicas):
            what = (
                f"{self._failed_starts} starts of its engine failed"
                if failed
                else f"its engine ended {self._ends} times"
            )
            notices.stop(
                self._board,
                f"{self._name}: {what} without a part in between, the last time: {new[-1].get('seen')}. Mend that, and "
                "run the same command again; it does the missing parts.",
            )

    def _tell_rung(self) -> None:
        rung = notices.rung(self._board)
        if rung.number:
            settings = dict(rung.settings)
            self._heard.event(
                "engine_adjusted", session=self._name, rung=rung.number, settings=settings, seen=rung.seen
            )
            times = f"{rung.number} out-of-memory restart{'s' * (rung.number != 1)}"
            self._heard.say(f"{self._name} ran with {shown(settings)} after {times}; set it in speed.engine_kwargs")


def _cluster() -> str:
    """What Ray has alive and free now."""
    import ray

    try:
        free: Mapping[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        alive = sum(bool(node["Alive"]) for node in ray.nodes())  # type: ignore[no-untyped-call]
    except Exception as error:  # asked only for a line of comfort
        return f"the cluster does not answer ({type(error).__name__})"
    return (
        f"the cluster has {alive} machine{'s' * (alive != 1)}, {free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} "
        "GPUs free"
    )
