"""What a person has to hear while parts come in: too many failed rows, or a parser that cannot read the answers.

Invariant: a step is stopped only by `max_error_rate`; an unreadable answer warns, once a step.
"""

from semievol_ray.errors import TooManyErrorsError
from semievol_ray.stages.context import Context
from semievol_ray.stages.jobs import PartReport

LEAST_READABLE = 0.5
SAMPLE_CHARACTERS = 120


class Watched:
    """The parts of one step as they come in; `num_rows` is that of the whole step."""

    def __init__(self, context: Context, step: str, num_rows: int) -> None:
        self._context, self._step, self._num_rows = context, step, num_rows
        self._num_errors = 0
        self._judged = False

    def see(self, report: PartReport) -> None:
        """Count a part. Raises TooManyErrorsError."""
        self._num_errors += report.num_errors
        check_errors(self._context, self._step, self._num_errors, self._num_rows, report.first_error)
        if not self._judged and report.num_rows > report.num_errors:
            self._judged = True
            self._warn_if_unreadable(report)

    def _warn_if_unreadable(self, report: PartReport) -> None:
        answered = report.num_rows - report.num_errors
        if answered - report.num_unreadable >= LEAST_READABLE * answered:
            return
        samples = "; ".join(repr(text[:SAMPLE_CHARACTERS]) for text in report.unreadable)
        self._context.progress.say(
            f"warning: {self._step}: no answer can be read in {report.num_unreadable} of the first {answered} "
            f"completions, for example {samples}. Look at the task's instruction, answer_template and max_tokens."
        )


def check_errors(context: Context, step: str, num_errors: int, num_rows: int, example: str | None) -> None:
    """Raises TooManyErrorsError when more rows failed than `max_error_rate` allows."""
    allowed = context.config.max_error_rate
    if num_errors > allowed * num_rows:
        raise TooManyErrorsError(
            f"{step}: {num_errors} of {num_rows} rows ended as engine_error, more than max_error_rate {allowed:g} "
            f"allows; for example: {example}. Mend the cause or raise max_error_rate, and run the same command again."
        )
