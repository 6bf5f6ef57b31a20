"""What the engines of a session tell each other and the driver: ends, stalls, rungs of the memory ladder, a stop.

Invariant: each notice is a file of its own, made once; a session whose engines are well has no folder.
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from semievol_ray import storage
from semievol_ray.engines.base import EngineSpec
from semievol_ray.engines.faults import Shortage
from semievol_ray.engines.ladder import rung_below
from semievol_ray.methodconfig import slug
from semievol_ray.records import now, read_json
from semievol_ray.stages.jobs import Session

ROWS_DONE = "rows_done"
"""Rows of a part under suspicion were answered: what ended engines is being found."""
_NOTICE, _RUNG, _OWN = "notice-", "rung-", "node-"


@dataclass(frozen=True)
class Board:
    """Where a session's notices lie, for the engines of one driver."""

    folder: str
    fence: int | None

    @property
    def root(self) -> str:
        """The run's folder."""
        return self.folder.rsplit("/", 2)[0]


@dataclass(frozen=True)
class Rung:
    """How far down the memory ladder a session stands; 0 is what was configured. `settings` go over the speed's.

    `node`: how far the engines of one machine alone do, whose devices others use.
    """

    number: int
    settings: Mapping[str, Any]
    seen: str = ""
    node: str = ""


def board_of(session: Session) -> Board:
    """The session's board: another model, or other speed settings, begin a ladder of their own."""
    step = session.jobs[0].step
    spec = json.dumps([session.spec.model, dict(session.spec.speed), session.spec.on_gpu], sort_keys=True, default=str)
    name = f"{slug(session.name)}-{storage.digest(spec.encode())[:8]}"
    return Board(f"{step.path.removesuffix('/' + step.name)}/sessions/{name}", step.fence)


def tell(board: Board, kind: str, **fields: object) -> None:
    """Leave a notice for the driver: the death, stall, slow start or leave of one engine, or ROWS_DONE."""
    line = {"time": now(), "kind": kind, "fence": board.fence, **fields}
    name = f"{_NOTICE}{line['time']}-{uuid.uuid4().hex[:8]}.json".replace(":", "")
    storage.create(f"{board.folder}/{name}", json.dumps(line).encode())


def notices(board: Board, known: set[str]) -> list[dict[str, Any]]:
    """This driver's notices that are not `known` yet, oldest first; they are from now on."""
    names = [name for name in storage.names(board.folder, ".json") if name.startswith(_NOTICE)]
    new = [name for name in names if name not in known]
    known.update(new)
    found = [read_json(f"{board.folder}/{name}") for name in new]
    return [notice for notice in found if notice["fence"] == board.fence]


def rung(board: Board, node: str = "") -> Rung:
    """The lowest rung that an engine of this session, or of it on this node alone, reached."""
    names = [name for name in storage.names(board.folder, ".json") if name.startswith(_prefix(node))]
    return Rung(**read_json(f"{board.folder}/{names[-1]}")) if names else Rung(0, {}, node=node)


def step_down(board: Board, spec: EngineSpec, at: Rung, shortage: Shortage, seen: str) -> bool:
    """After an engine on rung `at` ran out of memory the next stands on the one below; False on the last.

    Engines that run out together take one step: of all who would make the next rung, one does.
    """
    below = rung_below(spec, at.settings, shortage, seen)
    if below is None:
        return False
    record = {"number": at.number + 1, "settings": {**at.settings, **below}, "seen": seen, "node": at.node}
    storage.create(f"{board.folder}/{_prefix(at.node)}{at.number + 1:03d}.json", json.dumps(record).encode())
    return True


def _prefix(node: str) -> str:
    return f"{_OWN}{node}-" if node else _RUNG


def stop(board: Board, why: str) -> None:
    """Let every engine of this driver that would start or take a part raise RunStopped instead."""
    storage.create(_stop_path(board), json.dumps({"why": why}).encode())


def stopped(board: Board) -> str | None:
    """Why the session is to stop, where it is."""
    path = _stop_path(board)
    return str(read_json(path)["why"]) if storage.exists(path) else None


def _stop_path(board: Board) -> str:
    return f"{board.folder}/stop-{board.fence}.json"
