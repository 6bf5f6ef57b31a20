"""Plain text tables and figures for a terminal of 80 columns.

Invariant: every verb shows a share, an interval and an absent figure in the same way.
"""

import shutil
import textwrap
from collections.abc import Sequence

ABSENT = "-"
WIDEST = 100


def table(header: Sequence[str], rows: Sequence[Sequence[str]], num_left: int = 1) -> str:
    """Aligned columns, two blanks apart; the first `num_left` to the left, the others to the right."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    aligned = [
        [cell.ljust(w) if i < num_left else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))]
        for line in lines
    ]
    return "\n".join("  ".join(cells).rstrip() for cells in aligned)


def percent(share: float | None) -> str:
    """A fraction of 1 in percent, with one decimal."""
    return ABSENT if share is None else f"{100 * share:.1f}%"


def interval(low: float, high: float) -> str:
    """The ends of an interval of fractions of 1, in percent."""
    return f"{100 * low:.1f} to {100 * high:.1f}%"


def seconds(value: float | None) -> str:
    """A duration: 0.4s, 42s, 3m10s, 2h05m."""
    if value is None:
        return ABSENT
    if value < 9.95:
        return f"{value:.1f}s"
    minutes, rest = divmod(round(value), 60)
    hours, left = divmod(minutes, 60)
    if hours:
        return f"{hours}h{left:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def count(value: int | None) -> str:
    """A number with a blank-free thousands separator; 12.3M from ten millions on."""
    if value is None:
        return ABSENT
    return f"{value / 1e6:.1f}M" if value >= 10_000_000 else f"{value:,}"


def width() -> int:
    """Columns to write in: the terminal's, 80 where there is none, never above WIDEST."""
    return min(shutil.get_terminal_size((80, 24)).columns, WIDEST)


def paragraph(text: str, indent: str = "") -> str:
    """Text wrapped to the terminal line by line, indented, with control characters made visible; words stay whole."""
    lines = "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text).split("\n")
    wrapped = [
        textwrap.wrap(line, width() - len(indent), break_long_words=False, break_on_hyphens=False) or [""]
        for line in lines
    ]
    return "\n".join(indent + piece for pieces in wrapped for piece in pieces)
