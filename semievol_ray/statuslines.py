"""A run's status as text that fits 80 columns, once or again and again.

Invariant: what is not known is left out or a dash, never a guess; an estimate has "about" or ~ before it.
"""

import json
import sys
import time
from collections.abc import Mapping

from semievol_ray import tables
from semievol_ray.starts import starts_shown
from semievol_ray.status import RunStatus, State, StepStatus, all_retries, as_json, status

_MOST_REPLICAS, _MOST_TEXT = 8, 300
_CLEAR = "\x1b[H\x1b[2J\x1b[3J"


def watch(root: str, seconds: float, *, as_lines: bool = False) -> None:
    """Print the status every so many seconds until the run has finished; JSON, a line each, with `as_lines`."""
    before: RunStatus | None = None
    while True:
        before = status(root, before)
        text = json.dumps(as_json(before)) if as_lines else render(before)
        print((_CLEAR if sys.stdout.isatty() and not as_lines else "") + text, flush=True)
        if before.finished:
            return
        time.sleep(seconds)


def render(found: RunStatus) -> str:
    """The status as a table, and below it what is under way and what went wrong."""
    header = ("step", "done", "rows", "time", "failed", "tokens", "disk")
    table = tables.table(header, [_row(step) for step in found.steps])
    starts = [f"engine starts: {starts_shown(found.starts)}"] if found.starts else []
    below = [
        *_pace_lines(found),
        *_left_lines(found),
        *starts,
        *_trouble_lines(found),
        f"disk: {size(found.num_bytes)} in all",
    ]
    return "\n".join([f"run {found.name}: {found.root}", _driver_line(found), *_silence(found), "", table, "", *below])


def size(num_bytes: int | None) -> str:
    """Bytes as a person reads them, in decimal units: 512 B, 1.2 MB."""
    if num_bytes is None:
        return tables.ABSENT
    value = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def short_count(value: int | None) -> str:
    """A number in at most five characters: 9,999, 12.3k, 4.5M."""
    if value is None or value < 10_000:
        return tables.count(value)
    for unit, least in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * least:
            return f"{value / least:.0f}{unit}" if value >= 99.95 * least else f"{value / least:.1f}{unit}"
    raise AssertionError(value)


def _row(step: StepStatus) -> tuple[str, ...]:
    rows = short_count(step.rows)
    return (
        shown(step.name),
        _done(step),
        f"~{rows}" if step.rows_estimated else rows,
        tables.seconds(step.seconds),
        short_count(step.errors),
        short_count(step.tokens),
        size(step.num_bytes) if step.state is not State.NOT_BEGUN else tables.ABSENT,
    )


def _done(step: StepStatus) -> str:
    if step.state is State.COMMITTED:
        return "cleaned" if step.cleaned == "parts" else "done"
    return f"{step.parts_done}/{step.parts_total}" if step.parts_total else tables.ABSENT


def shown(name: str, longest: int = 26) -> str:
    """A step's name in few columns: rounds/0001/drafts/warm_0 is round 1 drafts/warm_0."""
    room, _, rest = name.partition("/")
    number, _, what = rest.partition("/")
    text = f"round {int(number)} {what}" if room == "rounds" and what else name
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def _driver_line(found: RunStatus) -> str:
    if found.running:
        return f"running: {found.driver}"
    if found.finished:
        return "finished"
    if found.running is None:
        return f"held by {found.driver}; whether it lives cannot be seen from here (--watch 10 tells)"
    goes_on = "not running, not finished: `semievol run` with the same configuration goes on"
    return f"{goes_on}\n{tables.paragraph(f'it stopped: {found.stopped}')}" if found.stopped else goes_on


def _silence(found: RunStatus) -> list[str]:
    if not found.is_silent:
        return []
    busy = ", ".join(shown(step.name) for step in found.steps if step.state is State.UNDER_WAY) or "no step"
    return [
        tables.paragraph(
            f"silent: no event for {tables.seconds(found.silent_seconds)} (the last: {found.last_event}), while {busy} "
            f"is under way. A fine-tuning and the loading of a model are silent; else look into {found.root}/logs."
        )
    ]


def _pace_lines(found: RunStatus) -> list[str]:
    if found.pace is None:
        return []
    p = found.pace
    tokens = f"{_rate(p.prompt_tokens_per_second)} prompt + {_rate(p.tokens_per_second)} generated tokens/s"
    lines = [f"pace: {_rate(p.rows_per_second)} rows/s, {tokens} (last minutes)"]
    if p.prefix_hit_rate is not None:
        lines.append(f"  {tables.percent(p.prefix_hit_rate)} of the prompt tokens came from the prefix cache")
    if len(found.replicas) <= _MOST_REPLICAS:
        return lines + [
            f"  replica {r.name[:8]} on node {r.node[:8]}: {_rate(r.rows_per_second)} rows/s, "
            f"{_rate(r.tokens_per_second)} tokens/s"
            for r in found.replicas
        ]
    rates = sorted((r.rows_per_second, r.name[:8], r.node[:8]) for r in found.replicas)
    (least, name, node), most, median = rates[0], rates[-1][0], rates[len(rates) // 2][0]
    return [
        *lines,
        f"  {len(rates)} replicas: median {_rate(median)} rows/s, from {_rate(least)} ({name} on node {node}) to "
        f"{_rate(most)}",
    ]


def _left_lines(found: RunStatus) -> list[str]:
    lines = []
    for step in found.steps:
        if step.state is State.UNDER_WAY and step.seconds_left is not None:
            rate = f"{_rate(step.rows_per_second)} rows/s, " if step.rows_per_second else ""
            lines.append(f"{shown(step.name)}: {rate}about {tables.seconds(step.seconds_left)} left")
    if found.running is not False and not found.finished:
        left = found.seconds_left
        lines.append(
            "the run: " + ("time left not known yet" if left is None else f"about {tables.seconds(left)} left")
        )
    return lines


def _trouble_lines(found: RunStatus) -> list[str]:
    again = all_retries(found)
    lines = [f"retries: {again.total()} ({_listed(again)})"] if again else []
    if errors := sum(step.errors or 0 for step in found.steps):
        last = next((step.first_error for step in reversed(found.steps) if step.first_error), None)
        lines.append(f"failed rows: {errors:,}" + (f"; for example: {last[:_MOST_TEXT]}" if last else ""))
    for trouble in found.troubles:
        told = f": {trouble.last_reason[:_MOST_TEXT]}" if trouble.last_reason else ""
        lines.append(f"{trouble.kind}: {trouble.num}, last at {trouble.last_time[:19]}{told}")
    return [tables.paragraph(line) for line in lines]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{num} because {reason}" for reason, num in sorted(counts.items(), key=lambda item: -item[1]))


def _rate(value: float | None) -> str:
    if value is None:
        return tables.ABSENT
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
