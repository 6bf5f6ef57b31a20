"""Why a fine-tuning leaves before its end: a notice of the driver, a deadline, a machine that goes, another driver.

Invariant: all workers leave after the same step, with its checkpoint committed, or without once another driver has the
run.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from semievol_ray import storage
from semievol_ray.errors import RunInUseError
from semievol_ray.lease import Claim, superseded

NOTICE_FILE = "leave"
LOOK_SECONDS = 2.0
"""Between two looks for a notice where each is a request, in an object store; on a disk one looks after every step."""
SPARE_SECONDS = 15.0
"""Left before a deadline for what comes after the checkpoint, and for the first one, whose time is not known."""


class Reason(IntEnum):
    """Why to leave; of several workers' reasons the largest holds."""

    NONE = 0
    MACHINE = 1
    NOTICE = 2
    DEADLINE = 3
    SUPERSEDED = 4


WORDS = {Reason.NOTICE: "it was told to stop", Reason.DEADLINE: "its deadline comes before another step is done"}


def leave_notice(checkpoints: str) -> None:
    """Let a fine-tuning whose checkpoints lie in this folder save after its step and stop; from any process."""
    storage.write(f"{checkpoints}/{NOTICE_FILE}", b"")


def is_noticed(checkpoints: str) -> bool:
    """Whether a driver gave notice."""
    return storage.exists(f"{checkpoints}/{NOTICE_FILE}")


def withdraw_notice(checkpoints: str) -> None:
    """Take back a notice that an earlier driver gave."""
    storage.remove(f"{checkpoints}/{NOTICE_FILE}")


@dataclass
class Leaving:
    """Looks, after each step, for a reason to leave; of what concerns all, in the first worker.

    deadline: a moment as `time.time()` counts, by which the last checkpoint is to be stored. claim: the driver's to the
    run, None where nobody else can have it.
    """

    checkpoints: str
    deadline: float | None
    is_machine_leaving: Callable[[], bool]
    claim: Claim | None = None
    save_seconds: float = SPARE_SECONDS
    _step_began: float = field(default_factory=time.monotonic)
    _step_seconds: float = 0.0
    _looked: float = field(default_factory=time.monotonic)
    _claimed: float = field(default_factory=time.monotonic)

    def reason(self, *, first: bool, device: Any, saves: bool = False) -> Reason:
        """Why all workers are to leave now; they ask at once, after each step. saves: a checkpoint would follow it."""
        own = self._own(first=first)
        stores = saves or own is not Reason.NONE
        is_lost = first and (stores or time.monotonic() - self._claimed >= LOOK_SECONDS) and self.is_lost()
        return self._agreed(Reason.SUPERSEDED if is_lost else own, device)

    def require_claim(self, *, first: bool, device: Any) -> None:
        """RunInUseError in all workers, which call it at once, when another driver has the run by now."""
        if self._agreed(Reason.SUPERSEDED if first and self.is_lost() else Reason.NONE, device) is Reason.SUPERSEDED:
            raise self.superseded()

    def is_lost(self) -> bool:
        """Whether another driver has the run by now."""
        self._claimed = time.monotonic()
        return self.claim is not None and self.claim.is_lost()

    def superseded(self) -> RunInUseError:
        """What a worker leaves with when another driver has the run."""
        assert self.claim is not None
        return superseded(self.claim.root, self.claim.fence)

    def _agreed(self, own: Reason, device: Any) -> Reason:
        """The largest of all workers' reasons."""
        import torch

        found = torch.tensor(int(own), device=device)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
        return Reason(int(found))

    def _own(self, *, first: bool) -> Reason:
        now = time.monotonic()
        self._step_seconds = max(0.5 * self._step_seconds, now - self._step_began)
        self._step_began = now
        if first and self.deadline is not None:
            needed = 2 * self._step_seconds + self.save_seconds + SPARE_SECONDS
            if time.time() + needed >= self.deadline:
                return Reason.DEADLINE
        if first and (not storage.is_remote(self.checkpoints) or now - self._looked >= LOOK_SECONDS):
            self._looked = now
            if is_noticed(self.checkpoints):
                return Reason.NOTICE
        return Reason.MACHINE if self.is_machine_leaving() else Reason.NONE
