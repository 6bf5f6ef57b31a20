"""Task: how one kind of question is asked, answered, read and compared.

Invariant: what a task renders as an answer, the same task reads back as that answer, in the driver and in any worker.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from semievol_ray.core import answers, similarity
from semievol_ray.core.answers import AnswerFormat, Choice, Free, Labels, Number, ParsedAnswer, Span
from semievol_ray.core.prompts import lettered
from semievol_ray.errors import ConfigError
from semievol_ray.taskmodules import TaskModule

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Parser = Callable[[str, Sequence[str] | None], ParsedAnswer | None]
"""(completion, options) -> the answer as written and where, or None; the task makes it canonical."""


@dataclass(frozen=True)
class Columns:
    """Where a data file keeps each part of a row; None is a part the task does not have. A group may be absent."""

    question: str = "question"
    options: str | None = None
    answer: str = "answer"
    group: str | None = None


@dataclass(frozen=True)
class Task:
    """One kind of question. `version` is raised when a change makes old outputs incomparable.

    `parser` replaces the format's own reading of completions. `module` is where a user's task came from: it is set by
    `tasks.resolve`, and a pickled task is made anew from it.
    """

    name: str
    instruction: str
    format: AnswerFormat
    answer_template: str = "Answer: {answer}"
    options_first: bool = False
    columns: Columns = field(default_factory=Columns)
    max_tokens: int = field(kw_only=True)
    version: int = 1
    parser: Parser | None = field(default=None, kw_only=True)
    module: TaskModule | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if "{answer}" not in self.answer_template:
            raise ConfigError(f"task {self.name}: answer_template lacks {{answer}}: {self.answer_template!r}")
        if self.max_tokens < 1:
            raise ConfigError(f"task {self.name}: max_tokens must be at least 1, not {self.max_tokens}")
        for answer in _probes(self):
            text = self.render_answer(answer)
            found = self.parse(text, ["first", "second"] if isinstance(self.format, Choice) else None)
            if found is None or found.answer != answer:
                reads = f"{found.answer!r}" if found else "nothing"
                raise ConfigError(
                    f"task {self.name}: the answer {answer!r} is written {text!r}, in which the task reads {reads}. "
                    "Let answer_template be '{answer}' or end in 'Answer: {answer}', or let the parser fit it."
                )

    def __reduce__(self) -> tuple[Callable[..., "Task"], tuple[Any, ...]]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.module is not None:
            del values["parser"]  # the module's own, which is made where the task is unpickled
        return _unpickled, (values,)

    def render_question(self, question: str, options: Sequence[str] | None) -> str:
        """The user's turn; options, where the row has them, are lettered and stand before or after the question."""
        if not options:
            return question
        listed = lettered(options)
        return f"{listed}\n\n{question}" if self.options_first else f"{question}\n\n{listed}"

    def render_answer(self, answer: str) -> str:
        """The assistant's turn for a canonical answer, gold or pseudo-label alike; the end-of-turn is not in it."""
        return self.answer_template.replace("{answer}", answers.trained_text(self.format, answer))

    def parse(self, text: str, options: Sequence[str] | None) -> ParsedAnswer | None:
        """The answer in a completion, None when it is unreadable."""
        if self.parser is None:
            return answers.parse_answer(self.format, text, options)
        found = self.parser(text, options)
        return answers.canonical_read(self.format, found, options) if found else None

    def equal(self, a: str, b: str) -> bool:
        """Whether two canonical answers are the same; of several golds any will do."""
        return answers.answers_equal(self.format, a, b)

    @property
    def is_closed(self) -> bool:
        """Whether the answers come from a set small enough to count: choice or labels."""
        return isinstance(self.format, Choice | Labels)

    @property
    def needs_vectors(self) -> bool:
        """Whether agreement is by embeddings, so that votes are tallied with `equal_by` in place of `equal`."""
        return isinstance(self.format, Free) and self.format.similarity is not None

    def texts(self, given: Iterable[str | None]) -> list[str]:
        """The different texts in canonical answers that `equal_by` needs the vectors of."""
        return similarity.texts_of(given)

    def equal_by(self, vectors: "Mapping[str, NDArray[np.float32]]") -> Callable[[str, str], bool]:
        """`equal` by unit vectors of `texts`; the plain `equal` for a task that needs none."""
        return similarity.equal_by(self.format, vectors) if isinstance(self.format, Free) else self.equal

    def canonical_gold(self, gold: str | Sequence[str], options: Sequence[str] | None) -> str:
        """The canonical text of a gold answer or of several; ValueError names the allowed ones."""
        return answers.canonical_gold(self.format, gold, options)

    def settings(self) -> dict[str, object]:
        """Everything an output depends on, as JSON values: part of every fingerprint."""
        values: dict[str, object] = {f.name: getattr(self, f.name) for f in fields(self)}
        del values["parser"], values["module"]
        values |= {"format": asdict(self.format), "columns": asdict(self.columns)}
        if isinstance(self.format, Labels):
            values["format"] = {"kind": self.format.kind, "labels": list(self.format.labels)}
        if self.module is not None:
            values["module"] = {"name": self.module.name, "sha256": self.module.digest}
        elif self.parser is not None:
            values["parser"] = _described(self.parser)
        return values


def _unpickled(values: dict[str, Any]) -> Task:
    module: TaskModule | None = values["module"]
    if module is None:
        return Task(**values)
    found = module.value()
    return Task(**values, parser=getattr(found, "parser", None))


def _described(parser: Parser) -> object:
    """A parser as a JSON value: a dataclass by its fields, a function by its name."""
    if is_dataclass(parser) and not isinstance(parser, type):
        return asdict(parser)
    return f"{parser.__module__}:{getattr(parser, '__qualname__', type(parser).__qualname__)}"


def _probes(task: Task) -> Sequence[str]:
    """Answers that every task of this format has to read back."""
    match task.format:
        case Labels(labels=labels):
            return labels
        case Choice():
            return ["A"]
        case Number() | Span() | Free() if task.parser is None:
            return ["7"]
    return []
