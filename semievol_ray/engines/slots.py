"""Folders for models on their way into an engine, whose paths come again: vLLM keys its compiled graphs by the path.

Invariant: what a slot holds is one process's own, or the same for all that hold it; it is empty before and after.
"""

import contextlib
import fcntl
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from semievol_ray import localdisk, storage


@dataclass(frozen=True)
class _Slot:
    """A folder, the open file whose lock says who holds it, and the file that says what is in it."""

    folder: Path
    lock: IO[bytes]

    @property
    def label(self) -> Path:
        return self.folder.with_suffix(".holds")

    def empty(self) -> None:
        self.label.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def slot() -> Iterator[str]:
    """An empty folder: the first of this user's that no other process of this machine holds.

    So the merged model of one round lies where that of the round before lay, and what was compiled for it is found
    again. Where the temporary folder has no locks, or the folder there is another's, it is a new folder.
    """
    with contextlib.ExitStack() as held:
        if (free := _first_free(_base(), held)) is None:
            yield held.enter_context(tempfile.TemporaryDirectory(prefix="semievol-served-"))
            return
        try:
            yield str(free.folder)
        finally:
            free.empty()


@contextlib.contextmanager
def shared_slot(what: str, fill: Callable[[str], None]) -> Iterator[str]:
    """A slot with what `fill` wrote into it, the same for all processes of this machine that ask for the same `what`.

    The first of them fills it and the others wait; the last that leaves empties it.
    """
    base, label = _base(), storage.digest(what.encode())
    with contextlib.ExitStack() as held:
        if (shared := _filled(base, label, fill, held)) is None:
            own = held.enter_context(slot())
            fill(own)
            yield own
            return
        try:
            yield str(shared.folder)
        finally:
            with _gate(base), contextlib.suppress(BlockingIOError):
                fcntl.flock(shared.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody else holds it
                shared.empty()


def _filled(base: Path, label: str, fill: Callable[[str], None], held: contextlib.ExitStack) -> _Slot | None:
    """A slot with this label, held with others; None where there can be none."""
    if not _is_ours(base):
        return None
    with localdisk.locked(f"{base}/filling.lock"):
        if found := _labelled(base, label, held):
            return found
        if found := _first_free(base, held):
            fill(str(found.folder))
            found.label.write_text(label, encoding="utf-8")
            with _gate(base):  # for a lock is let go before it is taken as another
                fcntl.flock(found.lock, fcntl.LOCK_SH)
        return found


def _labelled(base: Path, label: str, held: contextlib.ExitStack) -> _Slot | None:
    """The slot that was filled with this, held from now on; one that was killed may have left it."""
    with _gate(base):
        for path in sorted(base.glob("*.holds")):
            if path.read_text(encoding="utf-8") == label and path.with_suffix("").is_dir():
                file = held.enter_context(path.with_suffix(".lock").open("ab"))
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    return _Slot(path.with_suffix(""), file)
    return None


def _first_free(base: Path, held: contextlib.ExitStack) -> _Slot | None:
    """The first slot whose lock is free, held from now on and emptied; None where there can be none."""
    if not _is_ours(base):
        return None
    with contextlib.suppress(OSError), _gate(base):
        for number in itertools.count():
            file = held.enter_context((base / f"{number}.lock").open("ab"))
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found = _Slot(base / str(number), file)
                found.empty()  # of a process that was killed
                found.folder.mkdir()
                return found
    return None


def _is_ours(base: Path) -> bool:
    """Whether there is a folder for slots, which nobody else made."""
    with contextlib.suppress(OSError):
        base.mkdir(mode=0o700, exist_ok=True)
        return not base.is_symlink() and base.stat().st_uid == os.getuid()
    return False


def _gate(base: Path) -> contextlib.AbstractContextManager[None]:
    """Held while slots change hands."""
    return localdisk.locked(f"{base}/gate.lock")


def _base() -> Path:
    return Path(tempfile.gettempdir(), f"semievol-served-{os.getuid()}")
