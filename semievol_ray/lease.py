"""The lease of a run directory: who drives it now, with a fencing number that only grows.

Invariant: each holder has a file of its own, lease/<fence>.json, made by create-if-absent; the highest is the holder,
and a file is only ever rewritten by the one who made it. So of two takers one fails, whatever dies in between. On a
disk a holder's files come out of a folder of its own, which the next one withdraws before it looks at what there is.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from semievol_ray import storage
from semievol_ray.errors import RunInUseError, StorageError

RENEW_SECONDS = 5.0
PATIENCE_SECONDS = 60.0
_STAGING = ".staging"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """One driver's claim on a run; `pid_started` is in clock ticks since boot, empty where there is no /proc.

    `token` differs for any two claims, so that a lost answer to a create never makes two drivers believe it was theirs.
    `boot_id` and `pid_namespace` say in which machine and container `pid` counts, empty where that cannot be known.
    """

    fence: int
    host: str
    pid: int
    pid_started: str
    counter: int = 0
    released: bool = False
    token: str = ""
    boot_id: str = ""
    pid_namespace: str = ""


@dataclass(frozen=True)
class Claim:
    """What a driver's workers are given to see whether the run is still its own."""

    root: str
    fence: int
    token: str = ""

    @property
    def staging(self) -> str:
        """Where this driver's files are made whole before they are stored, on a disk."""
        return f"{self.root}/lease/{self.fence:06d}-{self.token}{_STAGING}"

    def is_lost(self) -> bool:
        """Whether another driver has the run by now: nothing more may be stored."""
        return is_superseded(self.root, self.fence, self.token)

    def check(self) -> None:
        """RunInUseError when another driver has the run by now."""
        if self.is_lost():
            raise superseded(self.root, self.fence)

    @contextmanager
    def held(self) -> Iterator[None]:
        """For what is stored by way of `staging`. RunInUseError when another driver has the run, before or by then."""
        self.check()
        try:
            yield
        except StorageError:
            self.check()
            raise


def newest_holder(root: str) -> Holder | None:
    """The last driver that took the run directory, `released` if it ended well; None when there was none."""
    found = storage.names(f"{root}/lease", ".json")
    return _read(f"{root}/lease/{found[-1]}") if found else None


def is_superseded(root: str, fence: int, token: str = "") -> bool:
    """Whether another driver has the run after the one with this fence and token: it must store nothing any more.

    Without a token it is not seen that the folder was deleted and made anew, where numbers begin at 1 again.
    """
    return storage.exists(_path(root, fence + 1)) or bool(token and _token_at(_path(root, fence)) != token)


def is_running(holder: Holder) -> bool | None:
    """Whether the process behind a lease lives; None when that cannot be known from here.

    That is so on another host, and in another container of this one: there the same number is another process.
    """
    if holder.host != socket.gethostname() or not holder.pid_started:
        return None
    if (holder.boot_id, holder.pid_namespace) != (_boot_id(), _pid_namespace()):
        return None
    return _pid_started(holder.pid) == holder.pid_started


def require_free(root: str) -> None:
    """RunInUseError when a driver on this host holds the run directory now; nothing is taken, nobody waited for."""
    holder = newest_holder(root)
    if holder is not None and not holder.released and is_running(holder):
        raise _in_use(root, holder)


class Lease:
    """The right to drive one run directory, renewed by a thread of its own until `close`."""

    def __init__(self, root: str, holder: Holder, renew_seconds: float) -> None:
        self.fence, self.claim = holder.fence, Claim(root, holder.fence, holder.token)
        self._root, self._holder, self._renew_seconds = root, holder, renew_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="semievol-lease", daemon=True)
        self._thread.start()

    @classmethod
    def take(
        cls, root: str, *, patience_seconds: float = PATIENCE_SECONDS, renew_seconds: float = RENEW_SECONDS
    ) -> "Lease":
        """Take the run directory, with a fence above every earlier one.

        A dead holder on this host is followed at once; one on another host when its counter stood still for
        `patience_seconds` of our monotonic clock. Errors: RunInUseError naming the living holder.
        """
        previous = newest_holder(root)
        if previous is not None and not previous.released:
            _require_stale(root, previous, patience_seconds)
        fence = previous.fence + 1 if previous else 1
        mine = Holder(
            fence,
            socket.gethostname(),
            os.getpid(),
            _pid_started(os.getpid()),
            token=uuid.uuid4().hex,
            boot_id=_boot_id(),
            pid_namespace=_pid_namespace(),
        )
        if not storage.create(_path(root, mine.fence), _encode(mine)):
            raise _in_use(root, _read(_path(root, mine.fence)))
        claim = Claim(root, mine.fence, mine.token)
        for name in storage.names(f"{root}/lease", _STAGING):
            if name < claim.staging.rpartition("/")[2]:  # of a driver before; one that came since has the run
                storage.withdraw(f"{root}/lease/{name}")
        storage.make_folder(claim.staging)
        claim.check()  # this process may have stood still meanwhile
        return cls(root, mine, renew_seconds)

    def check(self) -> None:
        """RunInUseError when another driver has taken over since; called before anything is committed."""
        self.claim.check()

    def close(self) -> None:
        """Stop renewing and mark the lease as released, if it still is ours; its number stays used."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        try:
            storage.withdraw(self.claim.staging)
            if _token_at(_path(self._root, self.fence)) == self._holder.token:
                storage.write(_path(self._root, self.fence), _encode(replace(self._holder, released=True)))
        except StorageError as error:  # must not hide why the run ends; the next driver sees that we are dead
            _log.warning("the lease of %s was not released: %s", self._root, error)

    def _renew(self) -> None:
        while not self._stop.wait(self._renew_seconds):
            try:
                if self.claim.is_lost():
                    _log.warning("%s", superseded(self._root, self.fence))
                    return
                self._holder = replace(self._holder, counter=self._holder.counter + 1)
                storage.write(_path(self._root, self.fence), _encode(self._holder))
            except StorageError as error:  # a full disk may be emptied again; `check` holds whatever happens here
                _log.warning("the lease of %s was not renewed: %s", self._root, error)


def superseded(root: str, fence: int) -> RunInUseError:
    """The error of a driver (or its worker) that was taken over."""
    return RunInUseError(
        f"{root} was taken over by another driver, or deleted, while this one (number {fence}) had it; "
        "nothing more is stored from here. Follow the other one, or stop it and run this command again."
    )


def _require_stale(root: str, holder: Holder, patience_seconds: float) -> None:
    """Return once the holder is known to be gone; RunInUseError as soon as it shows life."""
    running = is_running(holder)
    if running is None:
        _log.warning("%s is held by %s; waiting up to %g s for a sign of life", root, _who(holder), patience_seconds)
        running = _counter_moves(root, holder, patience_seconds)
    if running:
        raise _in_use(root, holder)


def _counter_moves(root: str, holder: Holder, patience_seconds: float) -> bool:
    deadline = time.monotonic() + patience_seconds
    while time.monotonic() < deadline:
        time.sleep(min(0.5, patience_seconds / 10))
        now = newest_holder(root)
        if now is not None and now.released:
            return False
        if now != holder:
            return True
    return False


def _in_use(root: str, holder: Holder) -> RunInUseError:
    return RunInUseError(
        f"{root} is in use by {_who(holder)}. Wait for it, stop it (kill {holder.pid}), or name another --run folder."
    )


def _who(holder: Holder) -> str:
    return f"process {holder.pid} on host {holder.host}"


def _pid_started(pid: int) -> str:
    """Field 22 of /proc/<pid>/stat; empty when there is no such process, or only its zombie, or no /proc."""
    try:
        # the command name, field 2, may hold blanks and brackets: count from the last bracket
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _boot_id() -> str:
    """Which start of which machine this is; empty where there is no /proc."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    """Where process numbers like ours count: containers of one host have their own; empty where there is no /proc."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _path(root: str, fence: int) -> str:
    return f"{root}/lease/{fence:06d}.json"


def _encode(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _token_at(path: str) -> str | None:
    """The token of the claim that lies there; None where none does."""
    try:
        return _read(path).token
    except StorageError:
        if storage.exists(path):
            raise
        return None


def _read(path: str) -> Holder:
    try:
        return Holder(**json.loads(storage.read(path)))
    except (ValueError, TypeError) as error:
        raise StorageError(f"{path} is damaged. When no driver uses this run any more, delete it and go on.") from error
