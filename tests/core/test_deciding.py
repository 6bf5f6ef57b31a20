"""The decisions of many rows at once are those of `decide` for each, sentence by sentence."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semievol_ray.core.deciding import DECISIONS, Coded, Rows, decide_rows, no_tau, quota_name
from semievol_ray.core.selection import Cut, Decision, decide

Row = tuple[str, float | None, float, str, str | None, str | None, bool]
ANY_PACE = settings(deadline=None, max_examples=300)  # machines are shared
VALUES = st.sampled_from([0.0, 0.25, 0.5, 0.5004, 0.50049999, 1e-7, 2.0])
SHARES = st.sampled_from([0.0, 0.5, 0.75, 1.0])
ROWS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "bb", "c", "é"]),
        st.one_of(st.none(), VALUES),
        SHARES,
        st.sampled_from(["", "law", "art"]),
        st.sampled_from(["plant", "food", None]),
        st.sampled_from([None, None, None, "too long"]),
        st.booleans(),
    ),
    max_size=20,
)
CUT = st.builds(Cut, VALUES, SHARES, st.sampled_from([None, "", "b", "d"]))
CUTS = st.dictionaries(st.sampled_from(["", "law", "art"]), CUT)
QUOTAS = st.dictionaries(st.sampled_from(["plant", "food", "animal"]), CUT)


def coded(texts: list[str | None]) -> Coded:
    values = sorted({text for text in texts if text is not None})
    return Coded(np.array([-1 if text is None else values.index(text) for text in texts], dtype=np.int64), values)


def columns(rows: list[Row]) -> Rows:
    """The rows column by column; H as it comes out of a float32 column."""
    return Rows(
        ids=[row[0] for row in rows],
        confidences=np.array([row[1] or 0.0 for row in rows], dtype=np.float32),
        known=np.array([row[1] is not None for row in rows], dtype=bool),
        shares=np.array([row[2] for row in rows], dtype=np.float64),
        keys=coded([row[3] for row in rows]),
        labels=coded([row[4] for row in rows]),
        errors=[row[5] for row in rows],
        tied=np.array([row[6] for row in rows], dtype=bool),
    )


def one_by_one(row: Row, cuts: dict[str, Cut], quotas: dict[str, Cut]) -> tuple[Decision, str]:
    """A row's decision by the plain rule."""
    row_id, confidence, share, key, label, error, tied = row
    if confidence is not None and key not in cuts:
        return Decision.UNCERTAIN, no_tau(key)
    named = [(key and f"group {key}", cuts[key])] if key in cuts else []
    quota = quotas.get(label) if label is not None else None
    named += [(quota_name(str(label)), quota)] if quota else []
    as_stored = None if confidence is None else float(np.float32(confidence))
    return decide(label, as_stored, error, named, share, row_id, tied=tied)


@ANY_PACE
@given(ROWS, CUTS, QUOTAS)
def test_rows_decided_at_once_are_those_decided_one_by_one(
    rows: list[Row], cuts: dict[str, Cut], quotas: dict[str, Cut]
) -> None:
    found = decide_rows(columns(rows), cuts, quotas, lambda key: key and f"group {key}")
    decided = [(DECISIONS[code], reason) for code, reason in zip(found.codes, found.reasons, strict=True)]
    assert decided == [one_by_one(row, cuts, quotas) for row in rows]


def test_confidence_that_is_not_finite_is_refused() -> None:
    rows = columns([("a", float("inf"), 1.0, "", "plant", None, False)])
    with pytest.raises(ValueError, match="inf is not finite"):
        decide_rows(rows, {"": Cut(0.5)}, {}, str)
