"""A study's table as text: for a terminal of 80 columns, as csv, as markdown.

Invariant: every seed is shown, and a variant that failed shows why.
"""

import csv
import io
from collections.abc import Sequence

from semievol_ray import tables
from semievol_ray.core.metrics import Interval
from semievol_ray.study.table import Row, StudyTable

WIDTH = 80
LEGEND = (
    "Accuracy on the test split in percent. sd: standard deviation over seeds. vs sft: points above sft, with the "
    "paired 95% bootstrap interval over the test questions, each with its rows of all seeds; it holds for these seeds' "
    "trainings, and what others would differ by is not in it. gap: share of the way from sft to the oracle. all, "
    "kept: precision of all pseudo-labels and of the accepted ones. Tokens (prompt and generated) and time are means "
    "over the seeds, each variant as if it ran alone, without the evaluations of other models."
)


def accuracy_cells(row: Row, seeds: Sequence[int]) -> list[str]:
    """mean, sd, one cell a seed, difference to sft, its interval."""
    by_seed = [points(row.accuracies.get(seed)) if seed in row.accuracies else _failed(row, seed) for seed in seeds]
    return [points(row.mean), points(row.deviation), *by_seed, *difference(row.against_sft)]


def accuracy_header(seeds: Sequence[int]) -> list[str]:
    return ["mean", "sd", *(f"seed {seed}" for seed in seeds), "vs sft", "95% interval"]


COST_HEADER = ["gap", "all", "kept", "coverage", "tokens", "time"]


def cost_cells(row: Row) -> list[str]:
    """Share of the gap, precisions, coverage, tokens, seconds."""
    known = row.num_tokens is not None and row.num_prompt_tokens is not None
    tokens = round((row.num_tokens or 0) + (row.num_prompt_tokens or 0)) if known else None
    shares = [tables.percent(v) for v in (row.precision_all, row.precision_accepted, row.coverage)]
    return [gap(row.gap), *shares, tables.count(tokens), tables.seconds(row.seconds)]


def render(found: StudyTable) -> str:
    """The study in 80 columns."""
    accuracies = [("variant", *accuracy_header(found.seeds))]
    accuracies += [(row.variant, *accuracy_cells(row, found.seeds)) for row in found.rows]
    blocks = [_fitting(accuracies, 3, 3 + len(found.seeds))]
    costs = [(row.variant, *cost_cells(row)) for row in found.rows]
    blocks.append(tables.table(("variant", *COST_HEADER), costs))
    if found.comparisons:
        compared = [(f"{c.variant} - {c.other}", *difference(c.difference)) for c in found.comparisons]
        blocks.append(tables.table(("comparison", "points", "95% interval"), compared))
    return "\n\n".join([*blocks, *_notes(found)])


def room_sentence(found: StudyTable) -> str:
    """What there was to gain: the gap between sft and oracle, and whether it counts as head-room."""
    if found.room is None:
        return "The gap from sft to the oracle is not known: both are needed."
    value, interval = difference(found.room)
    counts = "" if found.has_head_room else "; fewer than 3, or not surely above 0: no head-room, so no share of it"
    return f"From sft to the oracle: {value} points (paired 95% interval {interval}){counts}."


def failures(found: StudyTable) -> list[str]:
    """One line for each seed of a variant that ended without its result, or early."""
    return [
        f"{row.variant}, seed {seed}: {'stopped early' if seed in row.accuracies else 'failed'}: {reason}"
        for row in found.rows
        for seed, reason in row.reasons.items()
    ]


def as_csv(found: StudyTable) -> str:
    """One line a variant, plain numbers: accuracies and shares as fractions of 1, differences in points."""
    names = ["variant", "mean", "sd", *(f"seed_{seed}" for seed in found.seeds)]
    names += ["points_over_sft", "low", "high", "gap_closed", "precision_all", "precision_accepted", "coverage"]
    names += ["prompt_tokens", "tokens", "seconds", "failed"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for row in found.rows:
        over = row.against_sft
        ends = [None] * 3 if over is None else [100 * v for v in (over.value, over.low, over.high)]
        figures = [row.mean, row.deviation, *(row.accuracies.get(seed) for seed in found.seeds), *ends, row.gap]
        figures += [row.precision_all, row.precision_accepted, row.coverage]
        figures += [row.num_prompt_tokens, row.num_tokens, row.seconds]
        reasons = "; ".join(f"seed {seed}: {reason}" for seed, reason in row.reasons.items())
        writer.writerow([row.variant, *(_number(figure) for figure in figures), reasons])
    return out.getvalue()


def as_markdown(found: StudyTable) -> str:
    """The same as `render`, as tables of markdown."""
    accuracies = [[row.variant, *accuracy_cells(row, found.seeds)] for row in found.rows]
    costs = [[row.variant, *cost_cells(row)] for row in found.rows]
    blocks = [f"# {found.name}", LEGEND, _markdown(["variant", *accuracy_header(found.seeds)], accuracies)]
    blocks += [room_sentence(found), _markdown(["variant", *COST_HEADER], costs)]
    if found.comparisons:
        compared = [[f"{c.variant} - {c.other}", *difference(c.difference)] for c in found.comparisons]
        blocks.append(_markdown(["comparison", "points", "95% interval"], compared))
    blocks += ["\n".join(f"* {line}" for line in failures(found))] if failures(found) else []
    return "\n\n".join(blocks) + "\n"


def points(share: float | None) -> str:
    """A fraction of 1 in points of 100, with one decimal."""
    return tables.ABSENT if share is None else f"{100 * share:.1f}"


def difference(found: Interval | None) -> tuple[str, str]:
    """A difference in points and the ends of its interval."""
    if found is None:
        return tables.ABSENT, tables.ABSENT
    return f"{100 * found.value:+.1f}", f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"


def gap(value: float | str | None) -> str:
    """A share of the gap in whole percent, or the reason why there is none."""
    return tables.ABSENT if value is None else value if isinstance(value, str) else f"{100 * value:.0f}%"


def _failed(row: Row, seed: int) -> str:
    return "failed" if seed in row.reasons else tables.ABSENT


def _fitting(lines: Sequence[Sequence[str]], first: int, last: int) -> str:
    """A table; where it is too wide, columns first..last-1 (the seeds) follow in as many tables of their own as fit."""
    whole = _table(lines)
    if _width(whole) <= WIDTH:
        return whole
    blocks = [_table([[*line[:first], *line[last:]] for line in lines])]
    at = first
    while at < last:
        fits = [n for n in range(at + 1, last + 1) if _width(_table(_seeds(lines, at, n))) <= WIDTH] or [at + 1]
        blocks.append(_table(_seeds(lines, at, fits[-1])))
        at = fits[-1]
    return "\n\n".join(blocks)


def _seeds(lines: Sequence[Sequence[str]], first: int, last: int) -> list[Sequence[str]]:
    return [[line[0], *line[first:last]] for line in lines]


def _table(lines: Sequence[Sequence[str]]) -> str:
    return tables.table(lines[0], lines[1:])


def _width(text: str) -> int:
    return max(len(line) for line in text.split("\n"))


def _notes(found: StudyTable) -> list[str]:
    listed = "\n".join(tables.paragraph(line) for line in failures(found))
    return [note for note in (tables.paragraph(room_sentence(found)), listed, tables.paragraph(LEGEND)) if note]


def _number(figure: float | str | None) -> str:
    return "" if figure is None else figure if isinstance(figure, str) else f"{figure:.6g}"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
