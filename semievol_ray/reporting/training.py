"""What fine-tuning looked like: each round's loss by step, and its pace.

Invariant: a curve is drawn of at most MOST_POINTS means, so that the page does not grow with the steps.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from semievol_ray import tables
from semievol_ray.records import json_lines
from semievol_ray.reporting import page, svg
from semievol_ray.reporting.facts import Facts
from semievol_ray.reporting.page import Section
from semievol_ray.reporting.svg import Axis

MOST_POINTS = 200
END_SHARE = 0.1
"""Of the steps: over the first and the last of them a loss is averaged for the table."""
Lines = Sequence[Mapping[str, Any]]


def section(facts: Facts) -> Section:
    """A chart for each fine-tuning, and a table of all: steps, loss at both ends, tokens a second, memory, time."""
    return Section("training", "Fine-tuning", _body(facts))


def _body(facts: Facts) -> Markup:
    found = {name: _lines(facts, name) for name in facts.steps if name.endswith("/train")}
    curves = {name: lines for name, lines in sorted(found.items()) if lines}
    if not curves:
        return page.absent("No step of a fine-tuning was recorded: none has begun, or an engine without one was used.")
    *earlier, last = curves
    opened = [page.details(_shown(name), _figure(name, curves[name])) for name in reversed(earlier)]
    return page.joined([_table(curves), page.heading(_shown(last)), _figure(last, curves[last]), *opened])


def _lines(facts: Facts, name: str) -> list[dict[str, Any]]:
    """The curve's lines, of each step the one that came last: a fine-tuning may have gone on from an earlier step."""
    lines = json_lines(f"{facts.root}/{name}/curve.jsonl")
    return list({line["step"]: line for line in lines if math.isfinite(line.get("loss", math.nan))}.values())


def _table(curves: Mapping[str, Lines]) -> Markup:
    header = ("fine-tuning", "steps", "loss, first tenth", "last tenth", "tokens/s", "memory, GB", "MFU")
    rows = [_row(name, lines) for name, lines in curves.items()]
    return page.table("Fine-tunings; loss is per answer token, memory the first worker's peak", header, rows)


def _row(name: str, lines: Lines) -> tuple[str, ...]:
    tenth = max(1, round(END_SHARE * len(lines)))
    losses = [line["loss"] for line in lines]
    rates, shares = (_known(lines, key) for key in ("tokens_per_second", "mfu"))
    memory = _known(lines, "memory_bytes")
    return (
        _shown(name),
        f"{lines[-1]['step']:,} of {lines[-1].get('num_steps', lines[-1]['step']):,}",
        f"{statistics.fmean(losses[:tenth]):.3f}",
        f"{statistics.fmean(losses[-tenth:]):.3f}",
        f"{statistics.median(rates):,.0f}" if rates else tables.ABSENT,
        f"{max(memory) / 1e9:.1f}" if memory else tables.ABSENT,
        f"{statistics.median(shares):.0%}" if shares else tables.ABSENT,
    )


def _known(lines: Lines, key: str) -> list[float]:
    return [line[key] for line in lines if key in line]


def _figure(name: str, lines: Lines) -> Markup:
    points, height = thinned(lines), 220.0
    x, y = svg.count_axis(points[-1][0]), loss_axis(max(loss for _, loss in points))
    drawn = svg.curve([(x.at(step), height * (1 - y.at(loss) / 100)) for step, loss in points], height, "loss")
    told = f"{len(lines)} steps, from {points[0][1]:.3f} to {points[-1][1]:.3f}, least {min(p[1] for p in points):.3f}"
    pieces = [svg.y_axis(y, height), drawn, svg.x_axis(x, height, "step")]
    key = name.replace("/", "-")
    chart = svg.chart(f"loss-{key}", f"Loss by step of {_shown(name)}", told, height, pieces, "10px 14px 46px 46px")
    means = " Each point is the mean of a few steps." if len(lines) > MOST_POINTS else ""
    return page.figure(chart, f"Loss by step: {told}.{means}")


def thinned(lines: Lines) -> list[tuple[float, float]]:
    """(step, loss) of a curve as at most MOST_POINTS means of neighbours."""
    each = -(-len(lines) // MOST_POINTS)
    groups = [lines[i : i + each] for i in range(0, len(lines), each)]
    return [tuple(statistics.fmean(line[key] for line in group) for key in ("step", "loss")) for group in groups]  # type: ignore[misc]


def loss_axis(high: float) -> Axis:
    """An axis from 0 to at least `high` with a few round ticks."""
    power = 10.0 ** math.floor(math.log10(max(high, 1e-6)))
    step = next(s for s in (0.2 * power, 0.5 * power, power, 2 * power, 5 * power) if high / s <= 5)
    last = max(math.ceil(high / step - 1e-9), 1)
    return Axis(0.0, last * step, tuple((i * step, f"{i * step:.3g}") for i in range(last + 1)))


def _shown(name: str) -> str:
    """rounds/0001/train is round 1; bases/big/train the warm-up of big."""
    room, which, *_ = name.split("/")
    return f"round {int(which)}" if room == "rounds" else f"warm-up of {which}"
