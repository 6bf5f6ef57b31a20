"""A plan as text of 80 columns: a table of its steps, rounds, sums, packing, and how many GPUs make it a day.

Invariant: every figure that is uncertain stands with the interval it was given.
"""

from semievol_ray import tables
from semievol_ray.core.planning import ZERO, PlannedStep, Span
from semievol_ray.planning.plan import DAY_SECONDS, Packing, Plan


def render(plan: Plan) -> str:
    """The whole plan."""
    blocks = [
        tables.paragraph(f"Plan of {plan.name}: {plan.basis}. Times are those of {_cluster(plan)}."),
        tables.table(("step", "rows", "tokens", "time", "from - to", "disk", "files"), _rows(plan)),
        "\n".join(_sums(plan)),
        "\n".join(["engines, one group of weights after the other:", *map(_packed, plan.packing)]),
        tables.paragraph(_for_a_day(plan)),
    ]
    return "\n\n".join(blocks)


def between(span: Span) -> str:
    """The ends of an interval of seconds."""
    return f"{tables.seconds(span.low)} - {tables.seconds(span.high)}"


def size(num_bytes: float) -> str:
    """Bytes as a person reads them, of powers of ten."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 999.5:
            return f"{num_bytes:.0f} {unit}" if num_bytes >= 10 or unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def by_round(plan: Plan) -> dict[str, Span]:
    """The time of the data, the warm-up and each round."""
    found: dict[str, Span] = {}
    for unit in plan.units:
        found[_round(unit.name)] = found.get(_round(unit.name), ZERO) + unit.seconds
    return found


def _rows(plan: Plan) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for unit in plan.units:
        steps = [step for step in plan.steps if step.unit == unit.name]
        if [step.step for step in steps] == [unit.name]:
            rows.append(_line(unit.name, steps[0], unit.seconds))
            continue
        rows.append((unit.name + " engine", "", "", tables.seconds(unit.seconds.point), between(unit.seconds), "", ""))
        rows += [_line(f"  {_short(step.step)}", step, None) for step in steps]
    return rows


def _line(name: str, step: PlannedStep, seconds: Span | None) -> tuple[str, ...]:
    tokens = tables.count(round(step.prompt_tokens + step.tokens)) if step.tokens else ""
    time, ends = (tables.seconds(seconds.point), between(seconds)) if seconds else ("", "")
    return (name, tables.count(step.rows), tokens, time, ends, size(step.num_bytes), tables.count(step.num_files))


def _short(step: str) -> str:
    """A step within its session: drafts/warm_0, justify, rounds/0000/evaluate."""
    return step.split("/", 2)[2] if step.startswith("rounds/") and not step.endswith("evaluate") else step


def _sums(plan: Plan) -> list[str]:
    whole = plan.whole
    rounds = ", ".join(f"{name} {tables.seconds(span.point)}" for name, span in by_round(plan).items())
    lines = [
        f"together:     {tables.seconds(whole.seconds.point)} ({between(whole.seconds)})",
        f"rounds:       {rounds}",
        f"tokens:       {tables.count(round(whole.prompt_tokens))} read, {tables.count(round(whole.tokens))} written",
        f"disk:         {size(whole.num_bytes)} in {tables.count(whole.num_files)} files",
        f"object store: {size(plan.object_store_bytes)}; rows never lie in it",
    ]
    if plan.gpus:
        lines.insert(
            1, f"GPU-hours:    {plan.gpu_hours.point:.2f} ({plan.gpu_hours.low:.2f} - {plan.gpu_hours.high:.2f})"
        )
    money = _money(plan)
    return [*lines, f"money:        {money}"] if money else lines


def _money(plan: Plan) -> str:
    """What GPUs cost at the price, and endpoints at theirs."""
    parts = []
    if plan.price is not None and plan.gpus:
        span = plan.gpu_hours.times(plan.price)
        parts.append(f"{span.point:.2f} ({span.low:.2f} - {span.high:.2f}) for GPUs at {plan.price:g} an hour")
    elif plan.price is not None:
        hours = plan.whole.seconds.times(plan.price / 3600)
        parts.append(f"{hours.point:.2f} ({hours.low:.2f} - {hours.high:.2f}) at {plan.price:g} an hour of the cluster")
    if plan.whole.money:
        parts.append(f"{plan.whole.money:.2f} for endpoints")
    return ", ".join(parts)


def _cluster(plan: Plan) -> str:
    return f"{plan.gpus:g} GPUs" if plan.gpus else "the cluster at hand, without GPUs"


def _packed(group: Packing) -> str:
    each = f"{group.gpus_each:g} GPUs" if group.gpus_each else f"{group.cpus_each:g} CPUs"
    return tables.paragraph(f"{group.name}: {group.num} x {each}, for {', '.join(group.answers)}", "  ")


def _for_a_day(plan: Plan) -> str:
    if plan.gpus_for_a_day is None:
        return f"No number of engines makes it {DAY_SECONDS / 3600:g} hours: the rest takes longer than that."
    what = "GPUs" if plan.gpus else "engines without GPUs"
    return (
        f"For {DAY_SECONDS / 3600:g} hours: {plan.gpus_for_a_day:g} {what}, if engines and embedders divide the rows "
        "evenly and everything else takes what it takes now."
    )


def _round(unit: str) -> str:
    """data, warm-up, round 1 and on, by the name of a unit."""
    if unit.startswith("rounds/"):
        number = int(unit.split("/")[1])
        return f"round {number}" if number else "warm-up"
    if unit.startswith("round-"):
        return f"round {int(unit.removeprefix('round-').split()[0])}"
    return "data" if unit.startswith("data/") else "warm-up" if unit.startswith("bases/") else "evaluation"
