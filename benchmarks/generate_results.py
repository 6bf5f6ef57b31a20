"""What the arms of `benchmarks.generate` come to: rates, ratios held against targets, and whether answers agree.

Invariant: a ratio is of two arms of one call of the command; whether a target is met is never rounded.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.found import Found
from benchmarks.generate_plan import Answers, Plan

AGREE = 3.0
"""Standard errors by which the arms' shares of right drafts may lie apart."""
WHOLE = {("W1", "raydata"): 1.5, ("W1", "passes"): 2.0, ("W2", "raydata"): 1.0, ("W2", "passes"): 1.3}
"""Least ratio of our rate to an arm's, starts of engines included."""
RUNNING = {("W2", "raw"): 0.97}
"""Least ratio while engines are up: raw vLLM has its start behind it in its users' own figures."""


@dataclass(frozen=True)
class Measure:
    """One arm on one workload; `running_seconds`, without the starts of engines, is None where it cannot be told."""

    answers: Answers
    num_rows: int
    seconds: float
    running_seconds: float | None
    cpu_seconds: float
    peak_mib: float

    @property
    def rows_per_second(self) -> float:
        """Rows with all drafts and a justification, starts of engines included."""
        return self.num_rows / self.seconds

    @property
    def hit_rate(self) -> float | None:
        """The share of prompt tokens that vLLM took from its prefix cache; None where the arm cannot tell."""
        looked_up, found = self.answers.looked_up, self.answers.found
        return found / looked_up if looked_up and found is not None else None


def add(found: Found, workload: str, plan: Plan, measures: Mapping[str, Measure]) -> None:
    """A workload's figures, ratios and targets."""
    for arm, m in measures.items():
        found.metrics |= {f"{workload} {arm}: {name}": value for name, value in _figures(m).items()}
    if (ours := measures.get("ours")) is None:
        return
    for arm, m in measures.items():
        if arm == "ours":
            continue
        ratio = ours.rows_per_second / m.rows_per_second
        found.metrics[f"{workload} ours / {arm}"] = ratio
        cpu = (m.cpu_seconds / m.num_rows) / (ours.cpu_seconds / ours.num_rows)
        found.metrics[f"{workload} ours / {arm}, rows a CPU second"] = cpu
        if (workload, arm) in WHOLE:
            found.at_least(f"{workload} ours / {arm}", WHOLE[workload, arm], ratio)
        if ours.running_seconds and m.running_seconds:
            running = (ours.num_rows / ours.running_seconds) / (m.num_rows / m.running_seconds)
            found.metrics[f"{workload} ours / {arm}, engines up"] = running
            if (workload, arm) in RUNNING:
                found.at_least(f"{workload} ours / {arm}, engines up", RUNNING[workload, arm], running)
        apart = abs(apart_by(plan, ours.answers, m.answers))
        found.at_most(f"{workload} ours and {arm}: right drafts apart, standard errors", AGREE, apart)


def _figures(m: Measure) -> dict[str, float]:
    a = m.answers
    told = {
        "rows": m.num_rows,
        "seconds": m.seconds,
        "rows/s": m.rows_per_second,
        "rows/s, engines up": m.num_rows / m.running_seconds if m.running_seconds else None,
        "tokens/s": (a.num_prompt_tokens + a.num_tokens) / m.seconds,
        "generated tokens": a.num_tokens,
        "starts": a.num_starts,
        "hit rate": m.hit_rate,
        "CPU seconds": m.cpu_seconds,
        "peak MiB": m.peak_mib,
    }
    return {name: float(value) for name, value in told.items() if value is not None}


def apart_by(plan: Plan, mine: Answers, other: Answers) -> float:
    """How far two arms' shares of right drafts lie apart, in standard errors over the rows that both answered.

    Of a model that is nearly never right, the share of readable drafts is compared in its place.
    """
    right = [_shares(plan, of, gold=True) for of in (mine, other)]
    if max(statistics.fmean(shares) for shares in right) < 0.05:
        right = [_shares(plan, of, gold=False) for of in (mine, other)]
    differences = [a - b for a, b in zip(*right, strict=False)]
    mean = statistics.fmean(differences)
    spread = statistics.stdev(differences) if len(differences) > 1 else 0.0
    if not spread:
        return 0.0 if not mean else math.copysign(math.inf, mean)
    return mean / (spread / math.sqrt(len(differences)))


def _shares(plan: Plan, of: Answers, *, gold: bool) -> list[float]:
    """For each row, the share of its drafts that are right, or that can be read at all."""
    task, shares = plan.task(), []
    for i, texts in enumerate(zip(*of.drafts.values(), strict=True)):
        read = [task.parse(text, plan.rows[i]["options"]) for text in texts]
        good = [r is not None and (not gold or task.equal(r.answer, plan.gold[i])) for r in read]
        shares.append(sum(good) / len(good))
    return shares


def rendered(workload: str, called: Mapping[str, str], measures: Mapping[str, Measure]) -> str:
    """The table of a workload."""
    header = ("arm", "rows/s", "engines up", "tokens/s", "starts", "hit rate", "CPU s/row", "peak MiB")
    rows = [(called[arm], *_cells(m)) for arm, m in measures.items()]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        return "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))

    return "\n".join([f"{workload}", line(header), *map(line, rows)])


def _cells(m: Measure) -> tuple[str, ...]:
    running = m.num_rows / m.running_seconds if m.running_seconds else None
    tokens = (m.answers.num_prompt_tokens + m.answers.num_tokens) / m.seconds
    hit = m.hit_rate
    return (
        f"{m.rows_per_second:.3f}", f"{running:.3f}" if running else "-", f"{tokens:,.0f}", str(m.answers.num_starts),
        f"{hit:.1%}" if hit is not None else "-", f"{m.cpu_seconds / m.num_rows:.2f}", f"{m.peak_mib:,.0f}",
    )  # fmt: skip


def verdicts(found: Found) -> list[str]:
    """Each target with what was reached."""
    return [
        f"{'met' if of['met'] else 'NOT met':<8} {name}: {of['value']:,.3f} (target {of['target']:g})"
        for name, of in found.targets.items()
    ]
