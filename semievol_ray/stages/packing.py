"""How a round's engine groups lie on the cluster, and the pace to expect of them, in words, before any engine starts.

Invariant: a pace is what the same kind of step did before in this run, never a guess.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from semievol_ray import tables
from semievol_ray.placement import Replicas, Resources


@dataclass(frozen=True)
class PackedGroup:
    """One engine group: its name, its pool, the answers it still owes, and answers a second of one engine before."""

    name: str
    replicas: Replicas
    num_answers: int
    rate_each: float | None

    @property
    def seconds(self) -> float | None:
        """How long it takes at the pace of before; None where there is none."""
        return self.num_answers / (self.rate_each * self.replicas.num) if self.rate_each else None


def packing_lines(
    turns: Sequence[Sequence[PackedGroup]], beside: Sequence[PackedGroup], resources: Resources
) -> list[str]:
    """A line for each group, in the order in which they run, and one for all of them; none without groups.

    `turns`: one after the other, the groups of one at once; `beside`: behind endpoints, beside all turns that draft.
    """
    groups = [*beside, *(group for turn in turns for group in turn)]
    lines = [f"engines: {_group(group, resources)}" for group in groups]
    if len(groups) > 1:
        lines.append(f"engines: {_order(turns, beside)}{_together(turns, beside)}")
    return lines


def rate_before(events: Sequence[Mapping[str, Any]], steps: Sequence[str]) -> float | None:
    """Answers a second of one engine in earlier rounds' steps of these names; None where there were none."""
    kinds = {_kind(step) for step in steps}
    spans: dict[str, list[tuple[float, float, int]]] = {}
    for event in events:
        if event.get("kind") == "part_committed" and _kind(str(event["step"])) in kinds:
            end = datetime.fromisoformat(str(event["time"])).timestamp()
            told = (end - float(event.get("seconds") or 0.0), end, int(event["num_rows"]))
            spans.setdefault(f"{event['replica']}", []).append(told)
    busy = sum(max(end for _, end, _ in of) - min(begun for begun, _, _ in of) for of in spans.values())
    rows = sum(num for of in spans.values() for _, _, num in of)
    return rows / busy if busy > 0 else None


def _order(turns: Sequence[Sequence[PackedGroup]], beside: Sequence[PackedGroup]) -> str:
    num = sum(map(len, turns))
    behind = f"{len(beside)} behind {'endpoints' if len(beside) > 1 else 'an endpoint'}"
    if num == 0:
        return f"{behind}, at once"
    order = "1 group" if num == 1 else f"{num} groups {_at_once(num, len(turns))}, one start each"
    return f"{order}, and beside {'it' if num == 1 else 'them'} {behind}" if beside else order


def _at_once(num: int, num_turns: int) -> str:
    if num_turns == num:
        return "one after the other"
    return "at once" if num_turns == 1 else f"in {num_turns} turns, those of a turn at once"


def _together(turns: Sequence[Sequence[PackedGroup]], beside: Sequence[PackedGroup]) -> str:
    """The time of all groups, where every pace is known; what runs beside may take longer than what it runs beside."""
    each = [[group.seconds for group in turn] for turn in (beside, *turns)]
    if None in (seconds for turn in each for seconds in turn):
        return ""
    far, *near = [max((seconds or 0.0 for seconds in turn), default=0.0) for turn in each]
    return f", about {tables.seconds(max(far, sum(near)))} without starts"


def _group(group: PackedGroup, resources: Resources) -> str:
    pool, each = group.replicas, _each(group.replicas)
    most = resources.num_gpus if pool.gpus_each else sum(node.num_cpus for node in resources.nodes)
    used = pool.num * (pool.gpus_each or pool.cpus_each)
    unit = "GPUs" if pool.gpus_each else "CPUs"
    pace = "its pace not known yet"
    if group.rate_each:
        whole = group.rate_each * pool.num
        pace = f"about {whole:.3g} answers/s ({group.rate_each:.3g} an engine before)"
    where = f"{pool.num} x {each}, {used:g} of {most:g} {unit}" if used else "elsewhere"
    return f"{group.name}: {where}, {group.num_answers:,} answers, {pace}"


def _each(pool: Replicas) -> str:
    amount, unit = (pool.gpus_each, "GPU") if pool.gpus_each else (pool.cpus_each, "CPU")
    return f"{amount:g} {unit}{'s' * (amount != 1)}"


def _kind(step: str) -> str:
    """What a step does in any round: rounds/0002/drafts/warm_0 is drafts/warm_0."""
    room, _, rest = step.partition("/")
    return rest.partition("/")[2] if room == "rounds" else step
