"""The steps of a run as work to be timed: rows, parts, the session in which an engine does them.

Invariant: names of sessions are those that runs give their events, so that plan and actual meet by name.
"""

from dataclasses import dataclass

from semievol_ray.check import planned_steps
from semievol_ray.config import RunConfig
from semievol_ray.core.planning import Work
from semievol_ray.core.workload import ANSWERS, Rounds, Splits, kind_of, step_rows
from semievol_ray.engines.batches import num_steps
from semievol_ray.methodconfig import CollaboratorConfig, endpoint_called
from semievol_ray.sessions import ENDPOINT
from semievol_ray.stages.cutter import part_rows


@dataclass(frozen=True)
class Group:
    """An engine group: the weights that are resident together, and who is answered by them."""

    name: str
    model: str
    adapters: tuple[str, ...]
    answers: tuple[str, ...]
    is_endpoint: bool = False


def works_of(config: RunConfig, splits: Splits, rounds: Rounds, *, merged: bool) -> list[Work]:
    """Every planned step. `merged`: an adapter on its base is an engine group of its own."""
    return [_work(name, config, splits, rounds, merged) for name in planned_steps(config)]


def groups_of(config: RunConfig, *, merged: bool) -> list[Group]:
    """The engine groups of the first round, in the order in which they work: the one that justifies comes last."""
    adapted = config.method.warm_up
    members: dict[str, list[tuple[str, str, bool]]] = {}
    for c in config.method.collaborators:
        name = _group(config, c, merged, adapted)
        members.setdefault(name, []).append((c.name or "", c.adapter, c.endpoint is not None))
    last = _student(adapted, merged, adapted)
    members[last] = [*members.pop(last, []), ("justify", "warm" if adapted else "none", False)]
    return [_described(name, config, who) for name, who in members.items()]


def session_of(step: str, config: RunConfig, *, merged: bool) -> str:
    """The name under which a run's events know the session that answers a step."""
    names, last, warm = step.split("/"), config.method.rounds.num, config.method.warm_up
    number = int(names[1]) if names[0] == "rounds" else 0
    has_adapter = number > 1 or warm
    if names[-1] == "validation":
        return f"validate {'warm' if number > 0 or warm else 'base'}"
    if step == "base/evaluate":
        return f"round-1 {_student(False, merged, warm)}"
    if names[-1] == "evaluate":
        return f"{'evaluate' if number == last else f'round-{number + 1}'} warm"
    if names[-1] == "justify":
        return f"round-{number} {_student(has_adapter, merged, has_adapter)}"
    c = next(c for c in config.method.collaborators if c.name == names[-1])
    return f"round-{number} {_group(config, c, merged, has_adapter)}"


def _work(name: str, config: RunConfig, splits: Splits, rounds: Rounds, merged: bool) -> Work:
    rows = step_rows(name, splits, rounds) or 0
    kind = kind_of(name)
    amount = num_steps(config.train, rows) if kind == "train" else rows
    if kind not in ANSWERS:
        return Work(name, name, rows, amount, 0 if kind == "train" else _num_parts(config, rows))
    session = session_of(name, config, merged=merged)
    return Work(name, session, rows, amount, _num_parts(config, rows), session.partition(" ")[2])


def _num_parts(config: RunConfig, rows: int) -> int:
    return -(-rows // part_rows(config.speed.part_rows, rows)) if rows else 0


def _student(adapted: bool, merged: bool, has_adapter: bool) -> str:
    """The student's group: merged, with and without its adapter apart; else together as soon as there is one."""
    return "warm" if adapted or (has_adapter and not merged) else "base"


def _group(config: RunConfig, c: CollaboratorConfig, merged: bool, has_adapter: bool) -> str:
    if c.endpoint:
        return f"{ENDPOINT} {endpoint_called(config.method.collaborators, str(c.model), c.endpoint)}"
    if not c.model or c.model == config.model:
        return _student(c.adapter == "warm", merged, has_adapter)
    others = [o for o in config.method.collaborators if o.model == c.model and not o.endpoint]
    adapted = c.adapter == "warm" if merged else any(o.adapter == "warm" for o in others)
    return f"{'warm' if adapted else 'base'} {c.model}"


def _described(name: str, config: RunConfig, members: list[tuple[str, str, bool]]) -> Group:
    model = name.partition(" ")[2] or config.model
    adapters = tuple(dict.fromkeys(adapter for _, adapter, _ in members if adapter != "none"))
    return Group(name, model, adapters, tuple(who for who, _, _ in members), any(end for _, _, end in members))
