"""The measured side of `benchmarks.scale`: one kind of work in a process of its own, which notes its phases.

Invariant: what is measured is the package's own code on the real Ray; only the engine's answers are scripted.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Phase = Callable[..., contextlib.AbstractContextManager[dict[str, Any]]]


def main(kind: str, settings: dict[str, Any], events: str) -> None:
    """Do one kind of work."""
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_worker_niceness="0", RAY_TRAIN_V2_ENABLED="1")
    phase = noted_in(events)
    with phase("all"):
        if kind == "round":
            from benchmarks.scale_round import work
        elif kind == "select":
            from benchmarks.scale_select import work
        else:
            from benchmarks.scale_slots import work
        work(settings, phase)


def noted_in(events: str) -> Phase:
    """Phases that are noted in this file."""

    @contextlib.contextmanager
    def phase(name: str) -> Iterator[dict[str, Any]]:
        """A phase by name; what is put into the value goes with it to the watcher."""
        said: dict[str, Any] = {}
        begin = time.monotonic()
        yield said
        with Path(events).open("a") as file:
            file.write(json.dumps({"phase": name, "begin": begin, "end": time.monotonic(), "said": said}) + "\n")

    return phase


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), sys.argv[3])
