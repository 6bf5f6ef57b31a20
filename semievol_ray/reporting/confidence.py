"""H and what it is worth: its histogram with tau, how often answers at an H are right, what other thetas had kept.

Invariant: precision judged on the dev fold and on the pool's own gold answers stand apart, each named.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from semievol_ray import tables
from semievol_ray.core.metrics import Interval
from semievol_ray.reporting import charts, page
from semievol_ray.reporting.charts import Mark, Point, Segment
from semievol_ray.reporting.facts import Facts, Round, audited, by_round
from semievol_ray.reporting.page import Section
from semievol_ray.reporting.svg import Axis

SOURCES = {"dev": "the dev fold", "gold": "the pool's own gold answers"}
_UNJUDGED = (
    "No gold answer is known: the run has no dev fold (data.dev) and its pool has no answer column, so nobody can say "
    "how often an answer is right."
)


def histogram_section(facts: Facts) -> Section:
    return Section("confidence", "Confidence", by_round(facts, audited(_histogram)))


def reliability_section(facts: Facts) -> Section:
    return Section("reliability", "Reliability", by_round(facts, audited(_reliability)))


def what_if_section(facts: Facts) -> Section:
    def draw(found: Round, audit: Mapping[str, Any]) -> Markup:
        return _what_if(found, audit, _theta(facts))

    return Section("what-if", "Other thresholds", by_round(facts, audited(draw)))


def _histogram(found: Round, audit: Mapping[str, Any]) -> Markup:
    rows, accepted = audit["histogram"]["rows"], audit["histogram"]["accepted"]
    if not any(rows):
        return page.absent("No row of the round has a confidence.")
    x = _axis(audit)
    bars = [
        (float(i), [Segment("accepted", f"{a:,} accepted", a), Segment("uncertain", f"{n - a:,} not accepted", n - a)])
        for i, (n, a) in enumerate(zip(rows, accepted, strict=True))
        if n
    ]
    told = f"{audit['num_confident']:,} rows by H, of which {sum(accepted):,} are accepted"
    chart = charts.histogram(
        f"histogram-{found.number}", f"Confidence of round {found.number}", told, x, bars, _tau(found, audit)
    )
    legend = page.legend([("accepted", "accepted"), ("uncertain", "not accepted")])
    without = audit["num_rows"] - audit["num_confident"]
    caption = "Rows by H on a logarithmic scale."
    caption += " The first column on the left holds everything below 10⁻⁶." if rows[0] else ""
    caption += f" {tables.count(without)} rows have no H: unreadable, failed or cut off." if without else ""
    return page.figure(chart, caption, legend)


def _reliability(found: Round, audit: Mapping[str, Any]) -> Markup:
    judged = [(source, audit[source]) for source in SOURCES if audit[source]]
    if not judged:
        return page.absent(_UNJUDGED)
    return page.joined(_curve(found, audit, source, worth) for source, worth in judged)


def _curve(found: Round, audit: Mapping[str, Any], source: str, worth: Mapping[str, Any]) -> Markup:
    edges = audit["histogram"]["edges"]
    points = [Point(_position(edges, b["median"]), _interval(b["precision"]), _told(b)) for b in worth["curve"]]
    x = _axis(audit)
    reference = [(p, math.exp(-_value(edges, p))) for p in (x.low + (x.high - x.low) * i / 80 for i in range(81))]
    title = f"Share of right answers by H in round {found.number}, judged by {SOURCES[source]}"
    chart = charts.intervals(
        f"reliability-{source}-{found.number}",
        title,
        x,
        "H, in nats (smaller is surer)",
        [("", points)],
        marks=_tau(found, audit),
        reference=reference,
    )
    legend = page.legend([("dot", "right, with 95% interval"), ("dash", "exp(−H), H read as a probability")])
    every, kept = (worth[key] for key in ("precision", "precision_accepted"))
    error = worth["calibration_error"]
    caption = (
        f"{worth['num_rows']:,} judged rows in bins of equally many. Right are "
        f"{charts.shown(_interval(every))} of all and {charts.shown(_interval(kept) if kept else None)} of the "
        f"{worth['num_accepted']:,} accepted; the expected calibration error of exp(−H) is {100 * error:.1f} points."
    )
    table = page.details(f"Precision and coverage by confidence bin, {SOURCES[source]}", _bins(worth["bins"]))
    return page.joined([page.heading(f"On {SOURCES[source]}"), page.figure(chart, caption, legend), table])


def _bins(bins: Sequence[Mapping[str, Any]]) -> Markup:
    rows = [
        (_range(b), tables.count(b["rows"]), charts.cell(_interval(b["precision"])), tables.percent(b["coverage"]),
         tables.percent(b["precision_so_far"]))
        for b in bins
    ]  # fmt: skip
    header = ("H", "rows", "right", "coverage up to here", "right up to here")
    return page.table("Confidence bins that hold judged rows, surest first", header, rows)


def _what_if(found: Round, audit: Mapping[str, Any], theta: float | None) -> Markup:
    rows = audit["what_if"]
    if not rows:
        return page.absent("No row of the round has a confidence.")
    known = [source for source in SOURCES if any(row[source] for row in rows)]
    header = ["theta", "tau", "rows kept", *(f"right on {SOURCES[source]}" for source in known)]
    cells = [
        [
            f"{row['theta']:.0%}",
            nats(row["tau"]),
            tables.count(row["rows"]),
            *(charts.cell(_interval(row[s]) if row[s] else None) for s in known),
        ]
        for row in rows
    ]
    marked = [i for i, row in enumerate(rows) if theta is not None and math.isclose(row["theta"], theta)]
    table = page.table(f"What the percentile rule keeps of round {found.number}", header, cells, marked=marked)
    return page.joined([_trade(found, audit, known) if known else page.absent(_UNJUDGED), table])


def _trade(found: Round, audit: Mapping[str, Any], known: Sequence[str]) -> Markup:
    """Precision over the share kept: what a larger theta costs."""
    total = audit["num_confident"]
    series = [(("", "second")[index], _kept(audit, source)) for index, source in enumerate(known)]
    x = Axis(0, 1, tuple((i / 5, f"{20 * i}%") for i in range(6)))
    kept = sum(audit["histogram"]["accepted"]) / total
    chart = charts.intervals(
        f"what-if-{found.number}",
        f"Share of right labels by share of rows kept in round {found.number}",
        x,
        "rows kept",
        series,
        marks=[Mark(kept, "this run")],
    )
    legend = page.legend([(f"dot {kind}", f"right, {SOURCES[s]}") for s, (kind, _) in zip(known, series, strict=True)])
    caption = "How many labels are right when the surest 10%, 20% … of the answered rows are kept, with 95% intervals."
    return page.figure(chart, caption, legend)


def _kept(audit: Mapping[str, Any], source: str) -> list[Point]:
    """A point for each theta: the share of rows kept, and how many of them are right."""
    judged = [(row, _interval(row[source])) for row in audit["what_if"] if row[source]]
    total = audit["num_confident"]
    return [Point(r["rows"] / total, v, f"theta {r['theta']:.0%}: {charts.shown(v)} right") for r, v in judged]


def _theta(facts: Facts) -> float | None:
    method = facts.config.get("method") or {}
    found = (method.get("select") or {}).get("theta", method.get("theta"))
    return found if isinstance(found, int | float) else None


def _axis(audit: Mapping[str, Any]) -> Axis:
    """The bins that hold rows, with a little room on both sides, and round values of H as ticks."""
    edges, rows = audit["histogram"]["edges"], audit["histogram"]["rows"]
    filled = [i for i, n in enumerate(rows) if n] or [0]
    low, high = max(0, filled[0] - 1), min(len(rows), filled[-1] + 2)
    tens = [10.0**e for e in range(-6, 2)]
    finer = [m * ten for ten in tens for m in (1, 2, 5)]
    inside = [[v for v in values if low <= _position(edges, v) <= high] for values in (tens, finer)]
    chosen = inside[0] if len(inside[0]) > 2 else inside[1]
    return Axis(low, high, tuple((_position(edges, v), nats(v)) for v in chosen))


def _position(edges: Sequence[float], value: float) -> float:
    """Where H lies on an axis whose unit is a bin: bin i reaches from i to i + 1."""
    if value < edges[0]:
        return 0.5
    step = math.log10(edges[1] / edges[0])
    return min(1 + math.log10(value / edges[0]) / step, len(edges) + 1)


def _value(edges: Sequence[float], position: float) -> float:
    step = math.log10(edges[1] / edges[0])
    return 0.0 if position < 1 else edges[0] * 10 ** ((position - 1) * step)


def nats(value: float) -> str:
    """An H as people write it, with three digits: 0.0041, 2.45·10⁻⁵, 10⁻⁶."""
    if value == 0 or abs(value) >= 0.001:
        return f"{value:.3g}"
    digits, _, exponent = f"{value:.2e}".partition("e")
    power = "10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    digits = digits.rstrip("0").rstrip(".")
    return power if digits == "1" else f"{digits}·{power}"


def _tau(found: Round, audit: Mapping[str, Any]) -> list[Mark]:
    tau = found.metrics.get("tau")
    return [] if tau is None else [Mark(_position(audit["histogram"]["edges"], tau), f"tau {nats(tau)}")]


def _range(found: Mapping[str, Any]) -> str:
    return (
        f"{nats(found['low'])} to {nats(found['high'])}" if found["high"] is not None else f"from {nats(found['low'])}"
    )


def _interval(stored: Mapping[str, float]) -> Interval:
    return Interval(stored["value"], stored["low"], stored["high"])


def _told(found: Mapping[str, Any]) -> str:
    right = charts.shown(_interval(found["precision"]))
    return f"H {nats(found['low'])} to {nats(found['high'])}: {right} of {found['rows']:,}"
