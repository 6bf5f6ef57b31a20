"""Where time and tokens went, step by step.

Invariant: the seconds of steps that shared an engine are counted once, as its session.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from semievol_ray import tables
from semievol_ray.activity import Event, hit_rate, total
from semievol_ray.reporting import charts, page
from semievol_ray.reporting.facts import Facts
from semievol_ray.reporting.page import Section
from semievol_ray.runs import read_events


def section(facts: Facts) -> Section:
    """Seconds by step or session, tokens by step, money where an endpoint has a price, and what engines told."""
    return Section("cost", "Cost", page.joined([_seconds(facts), _tokens(facts), _engines(read_events(facts.root))]))


def _seconds(facts: Facts) -> Markup:
    spent = facts.summary.seconds
    if not spent:
        return page.absent("No step has ended yet.")
    most = max(spent.values()) or 1.0
    rows: list[list[str | Markup]] = [
        [_shown(name), tables.seconds(value), Markup('<div class="barcell">{}</div>').format(charts.bar(value / most))]
        for name, value in spent.items()
    ]
    rows.append(["together", tables.seconds(sum(spent.values())), ""])
    caption = "Time of each step; steps that shared an engine stand together as its session"
    return page.table(caption, ("step", "time", "share of it"), rows, marked=[len(rows) - 1])


def _tokens(facts: Facts) -> Markup:
    done = {name: record["committed"] for name, record in facts.steps.items() if record.get("committed")}
    asked = {name: c for name, c in done.items() if "num_tokens" in c["metrics"]}
    if not asked:
        return page.absent("No model has answered yet, so no tokens are counted.")
    priced = any("cost" in c["metrics"] for c in asked.values())
    header = ["step", "rows", "prompt tokens", "generated", "failed rows", *(["cost"] if priced else [])]
    rows = [_row(name, c, priced) for name, c in asked.items()]
    total = [
        tables.count(sum(c["metrics"][key] for c in asked.values())) for key in ("num_prompt_tokens", "num_tokens")
    ]
    money = [f"{sum(c['metrics'].get('cost', 0.0) for c in asked.values()):.4f}"] if priced else []
    errors = tables.count(sum(c["metrics"]["num_errors"] for c in asked.values()))
    rows.append(["together", "", *total, errors, *money])
    return page.table("Tokens of each step that asked a model", header, rows, marked=[len(rows) - 1])


def _engines(events: Iterable[Event]) -> Markup:
    """What each session's engines told of their starts and prefix caches; nothing where none did."""
    ended: dict[str, list[Event]] = {}
    for event in events:
        if event["kind"] == "session_ended" and event.get("num_starts"):
            ended.setdefault(str(event["session"]), []).append(event)
    if not ended:
        return Markup("")
    header = ("session", "starts", "starting, summed", "prompt tokens", "from the cache", "hit rate")
    return page.table(
        "Engines of each session: their starts, and what vLLM took from its prefix cache",
        header,
        [[name, *_told(of)] for name, of in ended.items()],
    )


def _told(ended: Sequence[Event]) -> list[str]:
    starting = sum(float(event["start_seconds"]) for event in ended)
    counts = [tables.count(total(ended, key)) for key in ("num_looked_up", "num_found")]
    return [
        tables.count(total(ended, "num_starts")),
        tables.seconds(starting),
        *counts,
        tables.percent(hit_rate(ended)),
    ]


def _row(name: str, committed: Mapping[str, Any], priced: bool) -> list[str]:
    m = committed["metrics"]
    counts = [committed["num_rows"], m["num_prompt_tokens"], m["num_tokens"], m["num_errors"]]
    money = [f"{m['cost']:.4f}" if "cost" in m else tables.ABSENT] if priced else []
    return [_shown(name), *(tables.count(value) for value in counts), *money]


def _shown(step: str) -> str:
    """A step's name as people say it: rounds/0001/drafts/warm_0 is round 1 drafts/warm_0."""
    room, _, rest = step.partition("/")
    number, _, what = rest.partition("/")
    return f"round {int(number)} {what}" if room == "rounds" and what else step
