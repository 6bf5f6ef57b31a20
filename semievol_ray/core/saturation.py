"""How fast an engine is while it is full, from when its pieces of work began and ended.

Invariant: seconds are conserved: what is handed to the kinds of work is the time in which the engine was full.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Piece:
    """One piece of work: of which kind, which call it belongs to, how many rows, from when to when (seconds)."""

    kind: str
    call: str
    rows: int
    began: float
    ended: float


@dataclass(frozen=True)
class Full:
    """Seconds of one engine for each row by kind of work, and the window in which it was full."""

    row_seconds: dict[str, float]
    began: float
    ended: float


def while_full(pieces: Sequence[Piece]) -> Full:
    """Seconds a row by kind, between the first and the last moment at which most calls were under way.

    Ramps at both ends are left out, gaps between pieces are in. At each moment the engine's time goes to the pieces
    under way by their rows. Kinds that do not occur in the window get theirs from the whole time.
    """
    began, ended = _window(pieces)
    inside = _shared(pieces, began, ended)
    first, last = min(p.began for p in pieces), max(p.ended for p in pieces)
    whole = _shared(pieces, first, last)
    kinds = dict.fromkeys(piece.kind for piece in pieces)
    return Full({kind: inside.get(kind, whole.get(kind, 0.0)) for kind in kinds}, began, ended)


def _window(pieces: Sequence[Piece]) -> tuple[float, float]:
    """From the first to the last moment at which the number of calls under way is at its highest."""
    spans: dict[str, tuple[float, float]] = {}
    for p in pieces:
        low, high = spans.get(p.call, (p.began, p.ended))
        spans[p.call] = min(low, p.began), max(high, p.ended)
    turns = sorted([(begin, 1) for begin, _ in spans.values()] + [(end, -1) for _, end in spans.values()])
    level, levels = 0, list[tuple[int, float, float]]()
    for (moment, change), (after, _) in pairwise(turns):
        level += change
        if after > moment:
            levels.append((level, moment, after))
    if not levels:
        return min(p.began for p in pieces), max(p.ended for p in pieces)
    top = max(level for level, _, _ in levels)
    return next(low for level, low, _ in levels if level == top), max(up for level, _, up in levels if level == top)


def _shared(pieces: Sequence[Piece], began: float, ended: float) -> dict[str, float]:
    """Seconds a row by kind in a window: each stretch is divided among the pieces under way by their rows."""
    cuts = sorted({began, ended, *(t for p in pieces for t in (p.began, p.ended) if began < t < ended)})
    seconds: defaultdict[str, float] = defaultdict(float)
    for low, high in pairwise(cuts):
        here = [p for p in pieces if p.began <= low and p.ended >= high]
        rows = sum(p.rows for p in here)
        for p in here:
            seconds[p.kind] += (high - low) * p.rows / rows if rows else 0.0
    handed = sum(seconds.values())
    scale = (ended - began) / handed if handed else 0.0  # gaps in which nothing was under way
    done = _rows_in(pieces, began, ended)
    return {kind: value * scale / done[kind] for kind, value in seconds.items() if done[kind] > 0}


def _rows_in(pieces: Sequence[Piece], began: float, ended: float) -> dict[str, float]:
    """Rows by kind that the pieces did within a window, each at an even pace."""
    rows: defaultdict[str, float] = defaultdict(float)
    for p in pieces:
        inside = max(0.0, min(p.ended, ended) - max(p.began, began))
        rows[p.kind] += p.rows * (inside / (p.ended - p.began) if p.ended > p.began else began <= p.began <= ended)
    return rows
