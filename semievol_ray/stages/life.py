"""The life of one engine process: its start, the watchdog beside it, and why it ends.

Invariant: a process that ends on purpose notes how its attempts ended, and tells the driver, before it does.
"""

import asyncio
import faulthandler
import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from semievol_ray.engines.base import EngineSpec, Generator
from semievol_ray.engines.faults import Shortage, log_marks, reason, said_since, shortage
from semievol_ray.engines.guarded import GuardedGenerator
from semievol_ray.engines.ladder import exhausted
from semievol_ray.engines.opening import open_generator
from semievol_ray.engines.prefixes import Prefixes
from semievol_ray.errors import EngineDiedError, RunStopped, SemievolError
from semievol_ray.stages import ledger, notices
from semievol_ray.stages.departure import Departure
from semievol_ray.stages.heartbeat import Heartbeat, Phase
from semievol_ray.stages.jobs import Session
from semievol_ray.stages.patience import Patience, Watch
from semievol_ray.stages.postmortem import STACKS_SIGNAL
from semievol_ray.stages.processes import descendants, kill_all
from semievol_ray.stages.sidecar import start_sidecar

AGAIN_SECONDS = 10.0
"""Between a start that failed and the next try, for a machine that is ill must not use up the tries of all."""
_CERTAIN = (TypeError, ValueError, ImportError, AttributeError, KeyError)
"""Errors of a start that the next start would meet again."""


class Life:
    """One engine process. Without `patience` it is watched by nobody, and an engine's end is raised, not lived."""

    def __init__(self, session: Session, replica: str, node: str, patience: Patience | None) -> None:
        self._session, self._patience = session, patience
        self.replica, self.node = replica, node
        self.board = notices.board_of(session)
        self.pulse = Heartbeat(read=patience is not None)
        self.prefixes = Prefixes()
        self._departure = Departure(patience.grace_seconds if patience else 0.0, self._num_in_hand, self._leave)
        self._rung, self._own = notices.rung(self.board), notices.rung(self.board, node)
        self._marks = log_marks()
        self._failed: SemievolError | None = None
        self._never = (
            asyncio.Event()
        )  # held here, for what waits on an event that nothing holds is collected as garbage
        self._sidecar = self._watched()
        began = time.monotonic()
        self.engine = self._open()
        self.start_seconds = round(time.monotonic() - began, 3)
        self.pulse.enter(Phase.ANSWERING)
        if patience:
            self._departure.arm()

    async def admitted(self) -> None:
        """Return while parts may be begun; on a machine that goes away wait for the end, for another takes the part.

        Raises what the start of the engine failed with.
        """
        if self._failed is not None:
            raise self._failed
        if self._departure.begun.is_set():
            await self._never.wait()

    @contextmanager
    def mortal(self) -> Iterator[None]:
        """Within the block an engine's end ends the process; it is left before any other part is begun."""
        try:
            yield
        except EngineDiedError as error:
            self._ended(error)

    def _ended(self, error: EngineDiedError) -> NoReturn:
        """Note how the attempts ended and end the process; Ray starts another, which is given the parts again."""
        seen = reason(error, said_since(self._marks))
        short = shortage(seen)
        steps_down = short is not None and self._steps_down(short, seen)
        for ticket in self.pulse.tickets:
            ledger.end(ticket, "memory" if steps_down else "engine", seen)
        self._tell("engine_out_of_memory" if steps_down else "engine_died", seen)
        self._quit(error)

    def _open(self) -> Generator | None:
        """The engine on the lowest rung that any of the session stands on; None when `admitted` is to raise."""
        if why := notices.stopped(self.board):
            self._failed = RunStopped(why)
            return None
        spec = self._spec()
        # the process too: Ray starts an actor that ended again under its name, and a stream is not to be drawn twice
        seed = random.Random(f"{spec.seed}/{self._session.name}/{self.replica}/{os.getpid()}").randrange(2**31)
        speed = {**spec.speed, **self._settings()}
        try:
            engine = open_generator(replace(spec, seed=seed, speed=speed), self.pulse.beat, self.prefixes.add)
        except EngineDiedError as error:
            self._start_failed(error)
        except SemievolError as error:
            self._failed = error
        except Exception as error:  # a foreign engine starts: whatever it raises is judged by its text
            self._start_failed(error)
        else:
            return GuardedGenerator(engine, self.pulse.beat)
        return None

    def _start_failed(self, error: Exception) -> None:
        seen = reason(error, said_since(self._marks))
        short = shortage(seen)
        if short and self._steps_down(short, seen):
            self._tell("engine_out_of_memory", seen)
            self._quit(error)
        elif short and not self._is_own(short):
            self._failed = RunStopped(exhausted(self._spec(), self._settings(), seen))
        elif not short and isinstance(error, _CERTAIN):
            self._failed = RunStopped(f"the engine of {self._session.name} does not start: {seen}")
            self._failed.__cause__ = error
        else:
            self._tell("engine_start_failed", seen)
            time.sleep(AGAIN_SECONDS)
            self._quit(error)

    def _steps_down(self, short: Shortage, seen: str) -> bool:
        """Whether there is a rung below: this machine's own once others use its devices, else the session's."""
        if not self._is_own(short):
            return notices.step_down(self.board, self._spec(), self._rung, short, seen)
        spec = self._spec()
        spec = replace(spec, speed={**spec.speed, **self._rung.settings})
        return notices.step_down(self.board, spec, self._own, short, seen)

    def _is_own(self, short: Shortage) -> bool:
        return short == "share" or self._own.number > 0

    def _settings(self) -> dict[str, Any]:
        """What goes over the speed settings: the session's rung and this machine's own, of either what is less."""
        both = (self._rung.settings, self._own.settings)
        return {name: min(of[name] for of in both if name in of) for name in {**both[0], **both[1]}}

    def _spec(self) -> EngineSpec:
        return self._session.spec

    def _watched(self) -> "subprocess.Popen[bytes] | None":
        """The watchdog, which is answered with stacks when it sends a signal."""
        if self._patience is None or self.pulse.folder is None:
            return None
        stacks = Path(self.pulse.folder, "stacks").open("w", encoding="utf-8")  # noqa: SIM115 - open while this lives
        faulthandler.register(STACKS_SIGNAL, file=stacks, all_threads=True)
        board = self.board
        watch = Watch(
            os.getpid(), self.pulse.folder, board.folder, board.fence, self._patience, self.replica, self.node
        )
        return start_sidecar(watch)

    def _leave(self) -> None:
        for ticket in self.pulse.tickets:
            ledger.end(ticket, "left")
        self._tell("engine_left", "its machine goes away")
        self.pulse.enter(Phase.ENDED)

    def _num_in_hand(self) -> int:
        return len(self.pulse.tickets)

    def _tell(self, kind: str, seen: str) -> None:
        parts = [ticket.part for ticket in self.pulse.tickets]
        notices.tell(self.board, kind, replica=self.replica, node=self.node, parts=parts, seen=seen)

    def _quit(self, error: Exception) -> NoReturn:
        if self._patience is None:
            raise error
        self.pulse.enter(Phase.ENDED)
        watchdog = self._sidecar.pid if self._sidecar else None
        kill_all({pid: began for pid, began in descendants(os.getpid()).items() if pid != watchdog})
        os._exit(1)
