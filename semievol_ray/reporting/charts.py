"""The charts of a report, each from plain values: dots with whiskers, stacked bars, histograms, curves, heat maps.

Invariant: a chart shows what it is given and computes no figure of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from semievol_ray import tables
from semievol_ray.core.metrics import Interval
from semievol_ray.reporting import svg
from semievol_ray.reporting.svg import Axis

_PLOT = "10px 14px 46px 46px"


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval; a `quiet` one is what others are compared with."""

    name: str
    value: Interval
    quiet: bool = False


@dataclass(frozen=True)
class Segment:
    """A piece of a stacked bar: its CSS class, its name and how much it is."""

    kind: str
    name: str
    amount: float


@dataclass(frozen=True)
class Point:
    """A precision with its interval at `x` of the axis; `told` says it in words."""

    x: float
    value: Interval
    told: str


@dataclass(frozen=True)
class Mark:
    """A vertical line at `x` of the axis, and its name."""

    x: float
    name: str


def shown(interval: Interval | None) -> str:
    """A figure with its interval: 71.9% (56.2 to 87.5)."""
    if interval is None:
        return tables.ABSENT
    return f"{100 * interval.value:.1f}% ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def cell(interval: Interval | None) -> Markup:
    """The same for a table: the interval under the figure where the screen is narrow."""
    if interval is None:
        return Markup("{}").format(tables.ABSENT)
    ends = f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"
    return Markup("{:.1f}% <small>{}</small>").format(100 * interval.value, ends)


def dot_whiskers(name: str, title: str, estimates: Sequence[Estimate], compared: float | None = None) -> Markup:
    """A line for each estimate: its name, its figure, a dot with a whisker; a dotted line through all at `compared`."""
    axis = svg.share_axis(min(e.value.low for e in estimates), max(e.value.high for e in estimates))
    row, height = 54, 54 * len(estimates)
    pieces: list[Markup] = []
    for index, e in enumerate(estimates):
        y = row * index
        ends = axis.at(e.value.low), axis.at(e.value.high)
        pieces += [svg.line("grid", axis.at(value), y + 28, axis.at(value), y + 44) for value, _ in axis.ticks]
        if compared is not None:
            pieces.append(svg.line("before", axis.at(compared), y + 24, axis.at(compared), y + 48))
        drawn = svg.line("whisker", ends[0], y + 36, ends[1], y + 36) + svg.dot(
            "dot", axis.at(e.value.value), y + 36, 6
        )
        pieces += [
            svg.text(e.name, 0, y + 20, kind="strong"),
            svg.text(shown(e.value), 100, y + 20, anchor="end", kind="value"),
            Markup('<g class="{}">{}</g>').format("quiet" if e.quiet else "", drawn),
        ]
    told = "; ".join(f"{e.name}: {shown(e.value)}" for e in estimates)
    return svg.chart(name, title, told, height, [*pieces, svg.x_axis(axis, height)], "4px 0 26px")


def stacked_bars(name: str, title: str, bars: Sequence[tuple[str, str, Sequence[Segment]]]) -> Markup:
    """A full-width bar for each (name, figure, segments); what is above 0 stays visible."""
    row, pieces, told = 58, [], []
    for index, (label, figure, segments) in enumerate(bars):
        y, left, total = row * index, 0.0, sum(s.amount for s in segments) or 1
        pieces += [
            svg.text(label, 0, y + 16, kind="strong"),
            svg.text(figure, 100, y + 16, anchor="end", kind="value"),
        ]
        for s in segments:
            width = 100 * s.amount / total
            if s.amount:
                pieces.append(svg.rect(s.kind, left, y + 25, max(width - 0.15, 0.3), 22, f"{s.name}: {s.amount:,.0f}"))
            left += width
        told.append(f"{label}: " + ", ".join(f"{s.name} {s.amount:,.0f}" for s in segments))
    return svg.chart(name, title, "; ".join(told), row * len(bars), pieces, "0")


def histogram(
    name: str,
    title: str,
    description: str,
    x: Axis,
    bars: Sequence[tuple[float, Sequence[Segment]]],
    marks: Sequence[Mark],
) -> Markup:
    """Stacked columns one unit of `x` wide, each from its left end; marks are lines through all of it."""
    height = 220.0
    y = svg.count_axis(max((sum(s.amount for s in segments) for _, segments in bars), default=0))
    pieces = [svg.y_axis(y, height)]
    for left, segments in bars:
        at, width, below = x.at(left), x.at(left + 1) - x.at(left), 0.0
        for s in segments:
            tall = height * y.at(s.amount) / 100
            if s.amount:
                tall = max(tall, 1.0)
                pieces.append(svg.rect(s.kind, at + 0.06 * width, height - below - tall, 0.88 * width, tall, s.name))
            below += tall
    pieces += [svg.x_axis(x, height, "H, in nats (smaller is surer)"), *_marks(x, marks, height)]
    return svg.chart(name, title, description, height, pieces, "26px 14px 46px 46px")


def intervals(
    name: str,
    title: str,
    x: Axis,
    x_name: str,
    series: Sequence[tuple[str, Sequence[Point]]],
    *,
    marks: Sequence[Mark] = (),
    reference: Sequence[tuple[float, float]] = (),
) -> Markup:
    """Dots with upright whiskers over `x`; series are (CSS class, points), `reference` a dashed line of (x, share)."""
    height, y = 220.0, svg.share_axis(min((p.value.low for _, points in series for p in points), default=0.0), 1.0)
    pieces = [svg.y_axis(y, height)]
    if seen := [(x.at(a), height * (1 - y.at(b) / 100)) for a, b in reference if y.low <= b <= y.high]:
        pieces.append(svg.curve(seen, height))
    for index, (kind, points) in enumerate(series):
        shift = 0.9 * (index - (len(series) - 1) / 2)
        drawn = Markup("").join(_point(x.at(p.x) + shift, p, y, height) for p in points)
        pieces.append(Markup('<g class="{}">{}</g>').format(kind, drawn))
    pieces += [svg.x_axis(x, height, x_name), *_marks(x, marks, height)]
    told = "; ".join(p.told for _, points in series for p in points)
    return svg.chart(name, title, told, height, pieces, "26px 14px 46px 46px" if marks else _PLOT)


def bar_groups(
    name: str, title: str, groups: Sequence[tuple[str, Sequence[Segment]]], show: str = "{:.1%}"
) -> Markup:  # fmt: skip
    """For each group its name and under it thin bars from zero, their values at their ends."""
    most = max((s.amount for _, segments in groups for s in segments), default=0) or 1
    pieces, told, y = [], [], 0.0
    for label, segments in groups:
        pieces.append(svg.text(label, 0, y + 13, kind="strong"))
        for i, s in enumerate(segments):
            width, top = 82 * s.amount / most, y + 21 + 15 * i
            pieces.append(svg.rect(s.kind, 0, top, max(width, 0.2), 10, f"{s.name}: {show.format(s.amount)}"))
            pieces.append(svg.text(show.format(s.amount), width, top + 9.5, dx=6))
        told.append(f"{label}: " + ", ".join(f"{s.name} {show.format(s.amount)}" for s in segments))
        y += 21 + 15 * len(segments) + 16
    return svg.chart(name, title, "; ".join(told), y, pieces, "0 14px 0 0")


def heat_map(
    caption: str,
    corner: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[tuple[str, float]]]],
) -> Markup:
    """A table of (text, strength 0..1) whose cells are the deeper the stronger."""
    head = Markup("").join(Markup('<th scope="col"><span>{}</span></th>').format(c) for c in columns)
    body = Markup("").join(
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(label, Markup("").join(_cell(*cell) for cell in cells))
        for label, cells in rows
    )
    return Markup(
        '<div class="scroll" role="region" aria-label="{0}" tabindex="0"><p class="caption" aria-hidden="true">{0}</p>'
        '<table class="heat" aria-label="{0}">'
        '<thead><tr><th class="corner">{1}</th>{2}</tr></thead><tbody>{3}</tbody></table></div>'
    ).format(caption, corner, head, body)


def bar(share: float) -> Markup:
    """A bar for a table's cell, `share` of its width."""
    return Markup('<span class="bar" style="width:{:.1f}%"></span>').format(100 * min(max(share, 0.0), 1.0))


def _cell(words: str, strength: float) -> Markup:
    kind = "deep" if strength > 0.75 else "middle" if strength > 0.45 else "pale"
    share = 100 * min(max(strength, 0.0), 1.0)
    return Markup('<td class="{}" style="--v:{:.0f}">{}</td>').format(kind, share, words)


def _point(at: float, point: Point, y: Axis, height: float) -> Markup:
    high, low, middle = (height * (1 - y.at(v) / 100) for v in (point.value.high, point.value.low, point.value.value))
    return svg.line("whisker", at, low, at, high) + svg.dot("dot", at, middle, 4.5, point.told)


def _marks(x: Axis, marks: Sequence[Mark], height: float) -> list[Markup]:
    pieces = []
    for mark in marks:
        at = x.at(mark.x)
        anchor = "end" if at > 80 else "start" if at < 20 else "middle"
        pieces += [svg.line("tau", at, -8, at, height), svg.text(mark.name, at, -12, anchor=anchor, kind="value")]
    return pieces
