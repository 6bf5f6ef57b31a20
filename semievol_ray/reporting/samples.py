"""A few rows of every decision with all that happened to them, as `semievol explain` tells it.

Invariant: at most MOST_PARTS parts are read, whatever the size of the pool, and the same rows are drawn every time.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from semievol_ray import schema, tables
from semievol_ray.configfile import parse
from semievol_ray.core.identity import sample_key
from semievol_ray.core.selection import Decision
from semievol_ray.errors import UserError
from semievol_ray.explain import Found, explain_found
from semievol_ray.reporting import page
from semievol_ray.reporting.facts import Facts
from semievol_ray.reporting.page import Section
from semievol_ray.runs import Step

MOST_PARTS, EACH, MOST_CHARACTERS = 32, 3, 8000
Row = Mapping[str, Any]


def section(facts: Facts) -> Section:
    """Rows drawn from the last round's decisions; each opens to its story."""
    if not facts.rounds:
        return Section("rows", "Sampled rows", page.absent("No round of this run has selected pseudo-labels yet."))
    step = facts.step(f"rounds/{facts.rounds[-1].number:04d}/select")
    parts = _spread(step.parts)
    try:
        drawn = _draw(step, parts, facts)
    except UserError as error:
        return Section("rows", "Sampled rows", page.absent(f"Not shown: {error}"))
    some = "all" if len(parts) == len(step.parts) else f"{len(parts)} of {len(step.parts):,}"
    intro = page.paragraph(
        f"Up to {EACH} rows of each decision of round {facts.rounds[-1].number}, drawn by a hash of their ids from "
        f"{some} parts. Open one for everything that happened to it."
    )
    groups = [_group(facts, decision.value, drawn[decision.value]) for decision in Decision]
    return Section("rows", "Sampled rows", page.joined([intro, *groups]))


def _spread(parts: Sequence[str]) -> list[str]:
    """At most MOST_PARTS parts, evenly apart."""
    count = min(MOST_PARTS, len(parts))
    return [parts[i * len(parts) // count] for i in range(count)]


def _draw(step: Step, parts: Sequence[str], facts: Facts) -> dict[str, list[tuple[Found, Row]]]:
    """Decision -> its rows with the smallest keys, and where they lie."""
    rows: dict[str, list[tuple[Found, Row]]] = {decision.value: [] for decision in Decision}
    for part in parts:
        for row in step.read_part(part, schema.SELECTION).to_pylist():
            rows[row["decision"]].append((Found(row["id"], part), row))
    seed = int(facts.config.get("seed", 0))
    return {
        decision: sorted(found, key=lambda pair: sample_key(seed, f"report/{pair[0].id}"))[:EACH]
        for decision, found in rows.items()
    }


def _group(facts: Facts, decision: str, rows: Sequence[tuple[Found, Row]]) -> Markup:
    name = decision.replace("_", " ")
    if not rows:
        total = sum(d["rows"] for d in facts.rounds[-1].metrics["decisions"] if d["decision"] == decision)
        told = f"None in the parts that were read; the round has {tables.count(total)}." if total else "No row."
        return page.joined([page.heading(name.capitalize()), page.absent(told)])
    return page.joined([page.heading(name.capitalize()), *(_sample(facts, found, row) for found, row in rows)])


def _sample(facts: Facts, found: Found, row: Row) -> Markup:
    try:
        story = _story(facts, found)
    except UserError as error:
        story = f"Not shown: {error}"
    shown = (
        story
        if len(story) <= MOST_CHARACTERS
        else f"{story[:MOST_CHARACTERS]}\n... (cut off here; see semievol explain)"
    )
    label = tables.ABSENT if row["label"] is None else row["label"]
    summary = Markup('<span class="tag">{}</span>{} <small>{}</small>').format(
        found.id[:10], _shortened(str(label)), _shortened(row["reason"], 160)
    )
    return page.details(summary, page.preformatted(shown))


def _story(facts: Facts, found: Found) -> str:
    """What `explain` tells of a row whose part is known, so that no other part has to be searched for its id."""
    task = parse(dict(facts.config), f"{facts.root}/manifest.json").resolve_task()
    return explain_found(facts.root, found, task)


def _shortened(text: str, longest: int = 60) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
