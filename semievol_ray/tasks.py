"""Task: how one kind of question is asked, answered, read and compared; and the tasks that come with the package.

Invariant: what a task renders as an answer, the same task reads back as that answer.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from semievol_ray.core import answers
from semievol_ray.core.answers import AnswerFormat, Choice, Labels, ParsedAnswer
from semievol_ray.core.prompts import lettered
from semievol_ray.errors import ConfigError


@dataclass(frozen=True)
class Columns:
    """Where a data file keeps each part of a row; None is a part the task does not have."""

    question: str = "question"
    options: str | None = None
    answer: str = "answer"
    group: str | None = None


@dataclass(frozen=True)
class Task:
    """One kind of question. `version` is raised when a change makes old outputs incomparable."""

    name: str
    instruction: str
    format: AnswerFormat
    answer_template: str = "Answer: {answer}"
    options_first: bool = False
    columns: Columns = field(default_factory=Columns)
    max_tokens: int = field(kw_only=True)
    version: int = 1

    def __post_init__(self) -> None:
        if "{answer}" not in self.answer_template:
            raise ConfigError(f"task {self.name}: answer_template lacks {{answer}}: {self.answer_template!r}")
        if self.max_tokens < 1:
            raise ConfigError(f"task {self.name}: max_tokens must be at least 1, not {self.max_tokens}")

    def render_question(self, question: str, options: Sequence[str] | None) -> str:
        """The user's turn; options, where the row has them, are lettered and stand before or after the question."""
        if not options:
            return question
        listed = lettered(options)
        return f"{listed}\n\n{question}" if self.options_first else f"{question}\n\n{listed}"

    def render_answer(self, answer: str) -> str:
        """The assistant's turn for a canonical answer, gold or pseudo-label alike; the end-of-turn is not in it."""
        return self.answer_template.replace("{answer}", answer)

    def parse(self, text: str, options: Sequence[str] | None) -> ParsedAnswer | None:
        """The answer in a completion, None when it is unreadable."""
        return answers.parse_answer(self.format, text, options)

    def equal(self, a: str, b: str) -> bool:
        """Whether two canonical answers are the same."""
        return answers.answers_equal(self.format, a, b)

    def canonical_gold(self, gold: str, options: Sequence[str] | None) -> str:
        """The canonical text of a gold answer; ValueError names the allowed ones."""
        return answers.canonical_gold(self.format, gold, options)

    def settings(self) -> dict[str, object]:
        """Everything an output depends on, as JSON values: part of every fingerprint."""
        values: dict[str, object] = asdict(self)
        if isinstance(self.format, Labels):
            values["format"] = {"kind": self.format.kind, "labels": list(self.format.labels)}
        return values


_LETTER = "Reply with one line: 'Answer: ' and the letter of the right option, such as 'Answer: B'."
_NOUN_KINDS = (
    "person", "animal", "plant", "food", "artifact", "body", "substance", "location", "communication", "time",
)  # fmt: skip

BUILTIN: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "arc",
            f"Answer the multiple-choice science question. {_LETTER}",
            Choice(),
            columns=Columns(options="options"),
            max_tokens=32,
        ),
        Task(
            "fpb",
            f"Judge the sentiment of the financial news sentence. {_LETTER}",
            Choice(),
            options_first=True,
            columns=Columns(options="options"),
            max_tokens=32,
        ),
        Task(
            "mmlu",
            f"Answer the multiple-choice exam question. {_LETTER}",
            Choice(),
            columns=Columns(options="options", group="Subject"),
            max_tokens=32,
        ),
        Task(
            "wordnet",
            f"Name the kind of thing in one word: {', '.join(_NOUN_KINDS)}.",
            Labels(_NOUN_KINDS),
            answer_template="{answer}",
            max_tokens=6,
        ),
    )
}
"""The tasks that a configuration can name without describing them."""


def builtin(name: str) -> Task:
    """The built-in task of that name; ConfigError with the nearest name otherwise."""
    if name in BUILTIN:
        return BUILTIN[name]
    near = difflib.get_close_matches(name.lower(), BUILTIN, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(f"there is no built-in task {name!r}: {hint}built in are {', '.join(BUILTIN)}")


def with_columns(task: Task, renamed: Mapping[str, str]) -> Task:
    """The task with some of its columns read under other names."""
    return replace(task, columns=replace(task.columns, **renamed))
