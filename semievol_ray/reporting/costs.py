"""Where time and tokens went, step by step.

Invariant: the seconds of steps that shared an engine are counted once, as its session.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from markupsafe import Markup

from semievol_ray import tables
from semievol_ray.activity import Event, hit_rate, total
from semievol_ray.reporting import charts, page
from semievol_ray.reporting.facts import Facts
from semievol_ray.reporting.page import Section
from semievol_ray.runs import read_events
from semievol_ray.sessions import of_the_run
from semievol_ray.starts import starts_shown


def section(facts: Facts) -> Section:
    """Seconds by step or session, tokens by step, money where an endpoint has a price, and what caches saved."""
    prefixes = _prefixes(of_the_run(read_events(facts.root)))
    return Section("cost", "Cost", page.joined([_seconds(facts), _tokens(facts), prefixes]))


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
    table = page.table(caption, ("step", "time", "share of it"), rows, marked=[len(rows) - 1])
    return page.joined([table, _starts(facts)]) if facts.summary.starts else table


def _starts(facts: Facts) -> Markup:
    """The share of the engines' time that went into starting them."""
    starts = facts.summary.starts
    assert starts is not None
    engines = sum(value for name, value in facts.summary.seconds.items() if name.endswith(" engine"))
    share = f", of {tables.seconds(engines)} with engines" if engines else ""
    return page.paragraph(f"Engine starts, within these times: {starts_shown(starts)}{share}.")


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


def _prefixes(events: Iterable[Event]) -> Markup:
    """Prompt tokens by session that came from the prefix cache, as vLLM counted them; nothing where none did."""
    ended: dict[str, list[Event]] = {}
    for event in events:
        if event["kind"] == "session_ended" and event.get("num_looked_up"):
            ended.setdefault(str(event["session"]), []).append(event)
    if not ended:
        return Markup("")
    rows = [
        [
            name,
            tables.count(total(of, "num_looked_up")),
            tables.count(total(of, "num_found")),
            tables.percent(hit_rate(of)),
        ]
        for name, of in ended.items()
    ]
    header = ("session", "prompt tokens", "from the cache", "hit rate")
    return page.table("Prefix cache of each session, equal prompts that were asked as one included", header, rows)


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
