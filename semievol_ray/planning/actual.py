"""A plan against what its run took, part by part: from plan.json and the run's own events.

Invariant: only what has ended is compared; a unit that either side lacks is left out.
"""

from dataclasses import dataclass

from semievol_ray import tables
from semievol_ray.core.planning import Span
from semievol_ray.planning.measured import driven_seconds
from semievol_ray.planning.plan import stored_plan
from semievol_ray.runs import read_events, read_manifest
from semievol_ray.summary import summarise

WHOLE = "the whole run"


@dataclass(frozen=True)
class Compared:
    """Seconds of one unit, as planned and as it was."""

    name: str
    planned: Span
    actual: float

    @property
    def ratio(self) -> float:
        """Actual over planned."""
        return self.actual / self.planned.point if self.planned.point else 0.0


def compared(root: str) -> list[Compared]:
    """Every unit that was planned and has ended, then the whole run once it is finished; empty without a plan."""
    plan = stored_plan(root)
    if plan is None:
        return []
    spent = {name.removesuffix(" engine"): value for name, value in summarise(root).seconds.items()}
    units = {unit["name"]: Span(**unit["seconds"]) for unit in plan["units"]}
    found = [Compared(name, span, spent[name]) for name, span in units.items() if name in spent]
    if "final" in read_manifest(root):
        found.append(Compared(WHOLE, Span(**plan["whole"]["seconds"]), driven_seconds(read_events(root))))
    return found


def lines(found: list[Compared]) -> str:
    """The comparison as a table; nothing where there is none."""
    if not found:
        return ""
    rows = [
        (c.name, tables.seconds(c.planned.point), f"{tables.seconds(c.planned.low)} - {tables.seconds(c.planned.high)}",
         tables.seconds(c.actual), f"{100 * c.ratio:.0f}%")
        for c in found
    ]  # fmt: skip
    return tables.table(("step", "planned", "from - to", "took", "of the plan"), rows)
