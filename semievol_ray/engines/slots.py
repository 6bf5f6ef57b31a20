"""Folders for models on their way into an engine, whose paths come again: vLLM keys its compiled graphs by the path.

Invariant: a slot is held by one process at a time, and is empty before and after.
"""

import contextlib
import fcntl
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def slot() -> Iterator[str]:
    """An empty folder: the first of this user's that no other process of this machine holds.

    So the merged model of one round lies where that of the round before lay, and what was compiled for it is found
    again. Where the temporary folder has no locks, or the folder there is another's, it is a new folder.
    """
    base = Path(tempfile.gettempdir(), f"semievol-served-{os.getuid()}")
    with contextlib.ExitStack() as held:
        if (folder := _first_free(base, held)) is None:
            yield held.enter_context(tempfile.TemporaryDirectory(prefix="semievol-served-"))
            return
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
        folder.mkdir()
        try:
            yield str(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _first_free(base: Path, held: contextlib.ExitStack) -> Path | None:
    """The first slot whose lock is free, which is held from now on; None where there can be none."""
    try:
        base.mkdir(mode=0o700, exist_ok=True)
        if base.is_symlink() or base.stat().st_uid != os.getuid():
            return None
        for number in itertools.count():
            file = held.enter_context((base / f"{number}.lock").open("ab"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            return base / str(number)
    except OSError:
        return None
    return None
