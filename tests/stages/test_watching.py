"""What is said while parts come in: a parser that cannot read the answers, at once; too many failures, as an end."""

from collections.abc import Callable
from io import StringIO

import pytest

from semievol_ray.errors import TooManyErrorsError
from semievol_ray.stages.context import Context
from semievol_ray.stages.jobs import PartReport
from semievol_ray.stages.watching import Watched

ContextOf = Callable[..., Context]
UNREADABLE = ["I would say", "x" * 500, "none"]


def _report(num_rows: int, num_unreadable: int = 0, num_errors: int = 0) -> PartReport:
    return PartReport(
        "drafts/base", "part-00000", "a", "n", num_rows, num_errors, 9, 9, 0.1, 1.0, "too long" if num_errors else None,
        num_unreadable, UNREADABLE[:num_unreadable],
    )  # fmt: skip


def _said(context_of: ContextOf, *reports: PartReport) -> str:
    said = StringIO()
    watched = Watched(context_of(said), "drafts/base", 1000)
    for report in reports:
        watched.see(report)
    return said.getvalue()


def test_parser_that_reads_less_than_half_is_told_of_within_the_first_part_with_three_samples(
    context_of: ContextOf,
) -> None:
    said = _said(context_of, _report(num_rows=10, num_unreadable=6))
    assert "drafts/base: no answer can be read in 6 of the first 10" in said
    assert all(text[:100] in said for text in UNREADABLE)
    assert len(said) < 600  # a long completion is cut


def test_warning_comes_once_a_step(context_of: ContextOf) -> None:
    assert _said(context_of, *[_report(10, 10)] * 3).count("warning") == 1


def test_half_of_the_answers_read_is_enough(context_of: ContextOf) -> None:
    assert _said(context_of, _report(10, 5), _report(10, 10)) == ""


def test_failed_rows_are_no_unreadable_answers(context_of: ContextOf) -> None:
    assert _said(context_of, _report(10, 4, num_errors=2)) == ""
    assert "in 5 of the first 8" in _said(context_of, _report(10, 5, num_errors=2))
    assert "in 9 of the first 9" in _said(context_of, _report(9, 0, num_errors=9), _report(9, 9))


def test_more_failed_rows_than_allowed_end_the_step_with_an_example(context_of: ContextOf) -> None:
    watched = Watched(context_of(max_error_rate=0.01), "drafts/base", 1000)
    watched.see(_report(500, num_errors=10))
    with pytest.raises(TooManyErrorsError, match=r"drafts/base: 11 of 1000 rows .*too long"):
        watched.see(_report(500, num_errors=1))
