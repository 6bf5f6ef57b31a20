"""The shell of a page, and the pieces of HTML that every page is built of.

Invariant: whatever is not Markup is escaped, and the page's own policy forbids scripts and every outside resource.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from semievol_ray import tables

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Section:
    """A part of a page; `id` is its anchor, unique in the page."""

    id: str
    title: str
    body: Markup


def page(title: str, intro: Markup, sections: Sequence[Section], footer: str) -> str:
    """A whole HTML document: head with inline CSS, title, contents, sections, footer."""
    css = Markup((_FOLDER / "page.css").read_text(encoding="utf-8"))
    return _environment().get_template("page.html").render(
        title=title, intro=intro, sections=sections, footer=footer, css=css
    )  # fmt: skip


def table(
    caption: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str | Markup]],
    *,
    marked: Sequence[int] = (),
    num_left: int = 1,
) -> Markup:
    """A table that scrolls sideways on its own; the first `num_left` columns are text, the others numbers.

    `marked` are indices of rows that stand out.
    """
    template = _environment().get_template("table.html")
    return Markup(
        template.render(
            caption=caption, header=header, rows=rows, marked=set(marked), num_left=num_left, absent=tables.ABSENT
        )
    )


def figure(chart: Markup, caption: str | Markup = "", legend: Markup | str = "") -> Markup:
    """A chart with its legend above and a caption below."""
    below = Markup("<figcaption>{}</figcaption>").format(caption) if caption else ""
    return Markup("<figure>{}{}{}</figure>").format(legend, chart, below)


def legend(entries: Sequence[tuple[str, str]]) -> Markup:
    """Names beside their colour; an entry is (CSS class of the mark, name)."""
    items = joined(Markup('<li><i class="{}"></i>{}</li>').format(mark, name) for mark, name in entries)
    return Markup('<ul class="legend">{}</ul>').format(items)


def details(summary: str | Markup, body: Markup, *, is_open: bool = False) -> Markup:
    """A block that opens on request."""
    state = Markup(" open") if is_open else ""
    return Markup("<details{}><summary>{}</summary>{}</details>").format(state, summary, body)


def paragraph(text: str | Markup) -> Markup:
    return Markup("<p>{}</p>").format(text)


def heading(text: str) -> Markup:
    """A heading inside a section."""
    return Markup("<h3>{}</h3>").format(text)


def absent(reason: str) -> Markup:
    """What stands in place of data that there is none of: why."""
    return Markup('<p class="absent">{}</p>').format(reason)


def preformatted(text: str) -> Markup:
    """Text whose lines and blanks matter; a long line wraps to its own indentation."""
    lines = [(len(line) - len(line.lstrip(" ")), line.strip()) for line in text.split("\n")]
    return Markup("<pre>{}</pre>").format(
        joined(Markup('<span style="--i:{}">{}\n</span>').format(indent, line) for indent, line in lines)
    )


def beside(*pieces: Markup) -> Markup:
    """Pieces next to each other where the screen is wide enough."""
    return Markup('<div class="beside">{}</div>').format(joined(pieces))


def joined(pieces: Iterable[str]) -> Markup:
    """Pieces one after the other; those that are not Markup are escaped."""
    return Markup("").join(pieces)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
