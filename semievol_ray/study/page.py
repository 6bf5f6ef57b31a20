"""A study's table as one self-contained HTML page, with a link to the report of every run.

Invariant: links are relative to the study's folder, so that the folder can be moved or sent as it is.
"""

import os
from collections.abc import Sequence

from markupsafe import Markup

from semievol_ray import storage
from semievol_ray.report import PAGE
from semievol_ray.reporting import page
from semievol_ray.study.table import Row, StudyTable
from semievol_ray.study.text import (
    COST_HEADER,
    LEGEND,
    accuracy_cells,
    accuracy_header,
    cost_cells,
    difference,
    failures,
    room_sentence,
)


def as_html(found: StudyTable, folder: str, footer: str) -> str:
    """The page; `folder` is where it will lie, and where the runs' reports are looked for."""
    accuracies = [[_whole(row.variant), *_linked(row, found.seeds, folder)] for row in found.rows]
    costs = [[_whole(row.variant), *cost_cells(row)] for row in found.rows]
    marked = [i for i, row in enumerate(found.rows) if row.variant == "semievol"]
    header = ["variant", *accuracy_header(found.seeds)]
    gained = page.joined([page.table("Accuracy by variant", header, accuracies, marked=marked), _paragraph(found)])
    sections = [page.Section("accuracy", "Accuracy", gained)]
    worth = page.table("Pseudo-labels and cost by variant", ["variant", *COST_HEADER], costs, marked=marked)
    sections.append(page.Section("cost", "Pseudo-labels and cost", worth))
    if found.comparisons:
        compared = [[f"{c.variant} - {c.other}", *difference(c.difference)] for c in found.comparisons]
        table = page.table("Paired differences", ["comparison", "points", "95% interval"], compared)
        sections.append(page.Section("comparisons", "Comparisons", table))
    if told := failures(found):
        body = page.joined(page.paragraph(line) for line in told)
        sections.append(page.Section("failures", "What failed or stopped early", body))
    return page.page(f"Study {found.name}", page.paragraph(LEGEND), sections, footer)


def _paragraph(found: StudyTable) -> Markup:
    return page.paragraph(room_sentence(found))


def _whole(name: str) -> Markup:
    """A name that no narrow screen breaks; the table scrolls instead."""
    return Markup('<span style="white-space: nowrap">{}</span>').format(name)


def _linked(row: Row, seeds: Sequence[int], folder: str) -> list[str | Markup]:
    """The cells of accuracies, those of seeds with a report as links to it."""
    cells: list[str | Markup] = [*accuracy_cells(row, seeds)]
    for at, seed in enumerate(seeds, start=2):
        root = row.roots.get(seed)
        if root and storage.exists(f"{root}/{PAGE}"):
            href = f"{os.path.relpath(root, folder)}/{PAGE}"
            cells[at] = Markup('<a href="{}">{}</a>').format(href, cells[at])
    return cells
