"""Who agreed with whom, how often each collaborator was right, and which labels selection favours.

Invariant: shares of agreement are over all rows the round answered, readable or not.
"""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from semievol_ray import tables
from semievol_ray.core.audit import precision
from semievol_ray.reporting import charts, page
from semievol_ray.reporting.charts import Segment
from semievol_ray.reporting.facts import Facts, Round, audited, by_round
from semievol_ray.reporting.page import Section


def agreement_section(facts: Facts) -> Section:
    """The collaborators' agreement matrix and what each one's answers are worth."""
    return Section("agreement", "Agreement", by_round(facts, audited(_agreement)))


def balance_section(facts: Facts) -> Section:
    """Shares of each label among the labels, all answered rows and the accepted ones."""
    return Section("balance", "Label balance", by_round(facts, audited(_balance)))


def _agreement(found: Round, audit: Mapping[str, Any]) -> Markup:
    told = audit["collaborators"]
    names, total = told["names"], told["num_rows"]
    if not names or not total:
        return page.absent("No row of the round was answered.")
    rows = [
        (name, [(f"{100 * n / total:.0f}%", n / total) for n in counts])
        for name, counts in zip(names, told["agreement"], strict=True)
    ]
    matrix = charts.heat_map(
        f"Share of round {found.number}'s {total:,} rows where both answers are readable and equal; on the diagonal, "
        "rows the collaborator answered readably",
        "",
        names,
        rows,
    )
    return page.beside(matrix, _worth(found, told))


def _worth(found: Round, told: Mapping[str, Any]) -> Markup:
    """How often each collaborator's own answers are right."""
    judged = [(name, a["judged"], a["right"]) for name, a in zip(told["names"], told["answers"], strict=True)]
    if not any(num for _, num, _ in judged):
        return page.absent("How often each collaborator is right is not known: the pool has no gold answers.")
    rows = [(name, tables.count(num), charts.cell(precision(right, num))) for name, num, right in judged]
    header = ("collaborator", "readable with gold", "right, 95% interval")
    return page.table(f"Answers of each collaborator in round {found.number}", header, rows)


def _balance(found: Round, audit: Mapping[str, Any]) -> Markup:
    rows = audit["labels"]
    if rows is None:
        return page.absent(
            "Not shown: the answers of this task come from no closed set, so there is nothing to balance."
        )
    totals = {key: sum(row[key] for row in rows) for key in ("labeled", "answered", "accepted", "gold")}
    kinds = [
        ("second", "labels", "labeled"),
        ("unreadable", "all answered", "answered"),
        ("accepted", "accepted", "accepted"),
    ]
    groups = [
        (row["label"], [Segment(kind, name, row[key] / (totals[key] or 1)) for kind, name, key in kinds])
        for row in rows
    ]
    chart = charts.bar_groups(f"balance-{found.number}", f"Share of each label in round {found.number}", groups)
    keys = ["labeled", "answered", "accepted", *(["gold"] if totals["gold"] else [])]
    header = ["label", "labels", "all answered", "accepted", *(["gold of the pool"] if totals["gold"] else [])]
    cells = [[row["label"], *(tables.count(row[key]) for key in keys)] for row in rows]
    counts = page.details("The same in rows", page.table(f"Rows by label in round {found.number}", header, cells))
    legend = page.legend([(kind, name) for kind, name, _ in kinds])
    return page.joined(
        [page.figure(chart, "Shares of each label within the labels, the answers and what was kept.", legend), counts]
    )
