"""What became of the pool: rows read, rows answered, and each round's decisions with what they were worth.

Invariant: the rows of a round's bar add up to the rows the round answered.
"""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from semievol_ray import tables
from semievol_ray.core.selection import Decision
from semievol_ray.reporting import charts, page
from semievol_ray.reporting.charts import Segment
from semievol_ray.reporting.facts import Facts, Round, by_round
from semievol_ray.reporting.page import Section

_NAMES = {
    Decision.ACCEPTED.value: "accepted",
    Decision.UNCERTAIN.value: "uncertain",
    Decision.UNREADABLE.value: "unreadable",
    Decision.ENGINE_ERROR.value: "engine error",
}
_MOST_CUTS = 60


def section(facts: Facts) -> Section:
    """The pool's way into the rounds, and the decisions of each."""
    if not facts.rounds:
        return Section("decisions", "Decisions", page.joined([_pool(facts), by_round(facts, _numbers)]))
    bars = [(_label(r), f"{tables.percent(r.metrics['coverage'])} accepted", _segments(r)) for r in facts.rounds]
    chart = charts.stacked_bars("decisions-chart", "Decisions of each round", bars)
    legend = page.legend(list(_NAMES.items()))
    return Section(
        "decisions",
        "Decisions",
        page.joined([_pool(facts), page.figure(chart, legend=legend), by_round(facts, _numbers)]),
    )


def _pool(facts: Facts) -> Markup:
    """How many rows of the file are in the pool, and where the others went."""
    found, committed = facts.metrics("data/unlabeled"), facts.steps.get("data/unlabeled", {}).get("committed")
    if not found or not committed:
        return page.absent("The pool is not read yet.")
    read, repeats, above = (tables.count(found.get(key)) for key in ("read", "duplicates", "in_higher_split"))
    return page.paragraph(
        f"Of {read} rows in the file of unlabeled rows, {repeats} repeat another one and {above} stand in a labeled, "
        f"held-out or test split; the pool holds {tables.count(committed['num_rows'])}.{_near_duplicates(facts)}"
    )


def _near_duplicates(facts: Facts) -> str:
    """How many rows are almost the same as another one, and what the run did about it."""
    found = facts.metrics("data/near_duplicates")
    if not found:
        return ""
    action = ((facts.config.get("data") or {}).get("near_duplicates") or {}).get("action")
    lost = ", ".join(f"{tables.count(num)} of {split}" for split, num in found["lost"].items() if num)
    fate = "they were dropped" if action == "drop" else "they were kept (data.near_duplicates.action)"
    return (
        f" Near duplicates of a row in the same or a higher split: {lost}; {fate}." if lost else " No near duplicates."
    )


def _numbers(found: Round) -> Markup:
    rows = [
        (_NAMES[d["decision"]], tables.count(d["rows"]), tables.percent(d["share"]), tables.count(d["judged"]),
         tables.percent(d["precision"]))
        for d in found.metrics["decisions"]
    ]  # fmt: skip
    header = ("decision", "rows", "share", "with gold", "right")
    told = page.table(f"Decisions of round {found.number}", header, rows)
    known = any(d["judged"] for d in found.metrics["decisions"])
    unknown = [] if known else [page.absent("The pool has no gold answers, so it is not known which labels are right.")]
    return page.joined([told, *unknown, _rule(found.metrics), _cuts(found)])


def _rule(metrics: Mapping[str, Any]) -> Markup:
    """Where the round cut, and what a calibrated rule stands on."""
    cuts = metrics.get("cuts") or {}
    certificate = cuts.get("certificate") or {}
    said = [f"tau = {metrics['tau']:.6g}" if metrics.get("tau") is not None else f"thresholds {cuts.get('scope', '')}"]
    said += (
        [f"ties at tau keep {metrics['ties_points']:.1f} points more than theta"] if metrics["ties_points"] > 0 else []
    )
    pieces = [page.paragraph(f"{tables.count(metrics['num_answered'])} rows have a confidence; {', '.join(said)}.")]
    if certificate:
        facts = ", ".join(
            f"{key.replace('_', ' ')} {value}" for key, value in certificate.items() if key != "assumption"
        )
        pieces.append(page.paragraph(f"Calibrated: {facts}. It holds as far as {certificate.get('assumption')}."))
    if metrics.get("dev_rows"):
        pieces.append(
            page.paragraph(
                f"On the dev fold {tables.count(metrics['dev_accepted'])} of {tables.count(metrics['dev_rows'])} rows "
                f"would be accepted, {tables.count(metrics['dev_right'])} of them right."
            )
        )
    return page.joined(pieces)


def _cuts(found: Round) -> Markup:
    """The thresholds of a round that has several: one an answer or group, and the quotas."""
    stored = found.metrics.get("cuts") or {}
    named = [(f"{name}", "threshold", cut) for name, cut in (stored.get("cuts") or {}).items()]
    named = (named if len(named) > 1 else []) + [
        (name, "quota", cut) for name, cut in (stored.get("quotas") or {}).items()
    ]
    if not named:
        return Markup("")
    rows = [(name or "(none)", kind, f"{cut['tau']:.6g}") for name, kind, cut in named[:_MOST_CUTS]]
    more = f", the first {_MOST_CUTS}" if len(named) > _MOST_CUTS else ""
    table = page.table(f"Cuts of round {found.number}", ("for", "kind", "keeps H up to"), rows, num_left=2)
    return page.details(f"{len(named)} cuts{more}", table)


def _label(found: Round) -> str:
    return f"Round {found.number}: {tables.count(found.num_rows)} rows"


def _segments(found: Round) -> list[Segment]:
    return [Segment(d["decision"], _NAMES[d["decision"]], d["rows"]) for d in found.metrics["decisions"]]
