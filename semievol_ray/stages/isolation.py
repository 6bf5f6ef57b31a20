"""Isolation: which rows of a part to try alone, by bisection, until those that end the engine are known.

Invariant: a row is given up only after it ended its engine twice when tried alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from semievol_ray.core.prompts import Message
from semievol_ray.engines.base import Sampling
from semievol_ray.stages.answering import Asker, Row, failed
from semievol_ray.stages.heartbeat import Rows

SUSPECT_PART = 2.0
"""Ends after which a part's rows are tried apart."""
SUSPECT_ROWS = 1.0
SUSPECT_ROW = 2.0


def plan(num_rows: int, suspicion: Callable[[Rows], float]) -> tuple[list[Rows], list[int]]:
    """(spans to try, each alone and the smallest first; rows given up) for a part whose rows are suspected.

    Smallest first: after an end the search goes on where it was, and what is innocent is answered once at the end.
    """
    spans: list[Rows] = []
    given_up: list[int] = []

    def look(rows: Rows, *, split: bool) -> None:
        first, last = rows
        if last - first == 1:
            if suspicion(rows) >= SUSPECT_ROW:
                given_up.append(first)
            else:
                spans.append(rows)
        elif split or suspicion(rows) >= SUSPECT_ROWS:
            middle = (first + last) // 2
            look((first, middle), split=False)
            look((middle, last), split=False)
        elif last > first:
            spans.append(rows)

    look((0, num_rows), split=True)
    return sorted(spans, key=lambda rows: (rows[1] - rows[0], rows[0])), given_up


class RefusingAsker(Asker):
    """Asks no engine: every row is failed, with one reason."""

    async def ask(
        self,
        render: Callable[[int], Sequence[Message]],  # noqa: ARG002
        num_demonstrations: int,  # noqa: ARG002
        options: Sequence[str] | None,  # noqa: ARG002
        sampling: Sampling,  # noqa: ARG002
        adapter: str | None,  # noqa: ARG002
    ) -> Row:
        return failed("given up") | {"num_demonstrations": 0}

    async def scores(
        self,
        messages: Sequence[Message],  # noqa: ARG002
        answers: Sequence[str],  # noqa: ARG002
        adapter: str | None,  # noqa: ARG002
        *,
        end_of_turn: bool,  # noqa: ARG002
    ) -> list[tuple[float, ...]] | None:
        return None


def refusing(asker: Asker) -> Asker:
    """An asker that fails every row where `asker` would ask."""
    return RefusingAsker(**{name: getattr(asker, name) for name in asker.__dataclass_fields__})


def with_error(table: pa.Table, reason: str) -> pa.Table:
    """A table whose every row has this error, and no label where it has one."""
    column: Any = pa.array([reason] * table.num_rows, pa.string())
    table = table.set_column(table.schema.get_field_index("error"), table.schema.field("error"), column)
    for name in ("label", "label_source", "confidence"):
        if (at := table.schema.get_field_index(name)) >= 0:
            field = table.schema.field(name)
            table = table.set_column(at, field, pa.nulls(table.num_rows, field.type))
    return table
