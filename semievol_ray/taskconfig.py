"""A task as a person describes it in YAML; imports nothing heavy.

Invariant: a described task and a built-in one become the same kind of value, `tasks.Task`.
"""

from typing import Literal

from pydantic import Field, model_validator

from semievol_ray import tasks
from semievol_ray.core.answers import AnswerFormat, Choice, Free, Labels, Number, Span
from semievol_ray.core.patterns import PatternParser
from semievol_ray.errors import ConfigError
from semievol_ray.methodconfig import Part

_OWN_KEYS = {"labels": "labels", "relative_tolerance": "number", "similarity": "free"}


class ParserConfig(Part):
    """How the answer is found in a completion, where the kind's own way does not do."""

    pattern: str = Field(description="a regular expression, Python's syntax; its group 1 is the answer, the last wins")


class TaskConfig(Part):
    """A task described in YAML: what is asked, and how an answer is read."""

    name: str
    kind: Literal["labels", "choice", "number", "span", "free"]
    instruction: str
    labels: tuple[str, ...] = ()
    relative_tolerance: float = Field(0.0, ge=0, lt=1)
    similarity: float | None = Field(
        None, gt=0, le=1, description="least cosine of free texts that agree; a normalised match when absent"
    )
    parser: ParserConfig | None = None
    answer_template: str = "Answer: {answer}"
    options_first: bool = False
    max_tokens: int = Field(64, gt=0)

    @model_validator(mode="after")
    def _complete(self) -> "TaskConfig":
        if self.kind == "labels" and len(set(self.labels)) < 2:
            raise ValueError("a task of kind labels needs at least two different labels")
        for key, kind in _OWN_KEYS.items():
            if kind != self.kind and getattr(self, key):
                raise ValueError(f"{key} {'belong' if key == 'labels' else 'belongs'} to kind {kind}, not {self.kind}")
        try:
            self.task()
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    def task(self) -> tasks.Task:
        """The task it describes. Raises ConfigError when it would not read its own answers."""
        return tasks.Task(
            name=self.name,
            instruction=self.instruction,
            format=self._format(),
            answer_template=self.answer_template,
            options_first=self.options_first,
            columns=tasks.Columns(options="options" if self.kind == "choice" else None),
            max_tokens=self.max_tokens,
            parser=PatternParser(self.parser.pattern) if self.parser else None,
        )

    def _format(self) -> AnswerFormat:
        match self.kind:
            case "labels":
                return Labels(self.labels)
            case "choice":
                return Choice()
            case "number":
                return Number(self.relative_tolerance)
            case "span":
                return Span()
            case "free":
                return Free(self.similarity)
