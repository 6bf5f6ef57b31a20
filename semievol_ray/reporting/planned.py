"""The plan of a run against what it took, where one was made before it.

Invariant: a figure outside the interval it was given is marked.
"""

from markupsafe import Markup

from semievol_ray import tables
from semievol_ray.planning.actual import Compared, compared
from semievol_ray.planning.plan import stored_plan
from semievol_ray.reporting import page
from semievol_ray.reporting.facts import Facts
from semievol_ray.reporting.page import Section


def section(facts: Facts) -> Section:
    """Planned and actual time of every step that ended."""
    plan, found = stored_plan(facts.root), compared(facts.root)
    if plan is None:
        text = page.absent("No plan was made before this run: semievol plan CONFIG makes one.")
    elif not found:
        text = page.absent("A plan was made, and no step of it has ended yet.")
    else:
        text = page.table(f"Time as planned by {plan['basis']}", _HEADER, [_row(one) for one in found])
    return Section("plan", "Plan and actual", text)


_HEADER = ("step", "planned", "from", "to", "took", "of the plan", "")


def _row(one: Compared) -> list[str | Markup]:
    planned = [tables.seconds(value) for value in (one.planned.point, one.planned.low, one.planned.high)]
    inside = "" if one.planned.holds(one.actual) else "outside"
    return [one.name, *planned, tables.seconds(one.actual), f"{100 * one.ratio:.0f}%", inside]
