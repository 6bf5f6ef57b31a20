"""Inline SVG that keeps the size of its letters on every screen: x in percent of the width, y in pixels.

Invariant: a chart says in a title and a description what it shows, and asks for no file.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True)
class Axis:
    """A linear scale from `low` to `high`; a tick is (value, its name)."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def at(self, value: float) -> float:
        """Where a value lies, in percent of the axis; values outside lie at its ends."""
        share = (value - self.low) / (self.high - self.low)
        return 100 * min(max(share, 0.0), 1.0)


def share_axis(low: float, high: float, most_ticks: int = 6) -> Axis:
    """An axis of fractions of 1 around [low, high] with ticks at round percentages."""
    low, high = max(0.0, low), min(1.0, high)
    for step in (1, 2, 5, 10, 20, 25):
        first, last = math.floor(100 * low / step), math.ceil(100 * high / step)
        first, last = (first, max(last, first + 1)) if first * step < 100 else (first - 1, first)
        if last - first < most_ticks:
            break
    ticks = tuple((i * step / 100, f"{i * step}%") for i in range(first, last + 1))
    return Axis(ticks[0][0], ticks[-1][0], ticks)


def count_axis(high: float, most_ticks: int = 5) -> Axis:
    """An axis from 0 to at least `high` with ticks at round counts."""
    power = 10 ** math.floor(math.log10(max(high, 1)))
    steps = (step * power for power in (power / 10, power) for step in (1, 2, 5))
    step = next((s for s in steps if s >= 1 and high / s < most_ticks), power)
    last = max(math.ceil(high / step), 1)
    return Axis(0, last * step, tuple((i * step, compact(i * step)) for i in range(last + 1)))


def compact(value: float) -> str:
    """A count in at most five characters: 950, 1.2k, 35k, 2M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"


def chart(name: str, title: str, description: str, height: float, pieces: Sequence[Markup], padding: str) -> Markup:
    """The SVG element; `name` is unique in the page, `padding` (CSS) is what labels outside the plot need."""
    return Markup(
        '<div class="plot" style="padding:{padding}">'
        '<svg role="img" aria-labelledby="{name}-t {name}-d" height="{h:.0f}">'
        '<title id="{name}-t">{title}</title><desc id="{name}-d">{description}</desc>{pieces}</svg></div>'
    ).format(padding=padding, name=name, h=height, title=title, description=description, pieces=Markup("").join(pieces))


def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{:.2f}%" y1="{:.1f}" x2="{:.2f}%" y2="{:.1f}"/>').format(kind, x1, y1, x2, y2)


def rect(kind: str, x: float, y: float, width: float, height: float, told: str = "") -> Markup:
    """A bar; `told` is shown where a pointer rests on it."""
    tip = Markup("<title>{}</title>").format(told) if told else ""
    return Markup('<rect class="{}" x="{:.3f}%" y="{:.1f}" width="{:.3f}%" height="{:.1f}">{}</rect>').format(
        kind, x, y, max(width, 0.0), max(height, 0.0), tip
    )


def dot(kind: str, x: float, y: float, radius: float = 5, told: str = "") -> Markup:
    tip = Markup("<title>{}</title>").format(told) if told else ""
    return Markup('<circle class="{}" cx="{:.2f}%" cy="{:.1f}" r="{}">{}</circle>').format(kind, x, y, radius, tip)


def text(words: str, x: float, y: float, *, anchor: str = "start", kind: str = "", dx: float = 0) -> Markup:
    return Markup('<text class="{}" x="{:.2f}%" y="{:.1f}" dx="{:g}" text-anchor="{}">{}</text>').format(
        kind, x, y, dx, anchor, words
    )


def curve(points: Sequence[tuple[float, float]], height: float, kind: str = "dash") -> Markup:
    """A line through (x in percent, y in pixels), stretched with the plot; dashed unless it is of another kind."""
    path = " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
    return Markup(
        '<svg width="100%" height="{0:.0f}" viewBox="0 0 100 {0:.0f}" preserveAspectRatio="none" aria-hidden="true">'
        '<polyline class="{2}" points="{1}"/></svg>'
    ).format(height, path, kind)


def x_axis(axis: Axis, height: float, name: str = "") -> Markup:
    """Ticks below the plot, and the axis's name under them."""
    ticks = [text(label, axis.at(value), height + 19, anchor=_anchor(axis.at(value))) for value, label in axis.ticks]
    marks = [line("axis", axis.at(value), height, axis.at(value), height + 4) for value, _ in axis.ticks]
    named = [text(name, 50, height + 38, anchor="middle")] if name else []
    return Markup("").join([line("axis", 0, height, 100, height), *marks, *ticks, *named])


def _anchor(at: float) -> str:
    """A label at an end of the axis stays inside it."""
    return "start" if at < 1 else "end" if at > 99 else "middle"


def y_axis(axis: Axis, height: float) -> Markup:
    """Lines across the plot, their values left of it."""
    pieces = []
    for value, label in axis.ticks:
        y = height * (1 - axis.at(value) / 100)
        pieces += [line("grid", 0, y, 100, y), text(label, 0, y + 4, anchor="end", dx=-8)]
    return Markup("").join(pieces)
