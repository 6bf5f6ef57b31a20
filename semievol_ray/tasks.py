"""The tasks that come with the package, and how the name of a task in a configuration becomes one.

Invariant: a name means one task, wherever it is resolved; a user's own comes with the hash of its source.
"""

import difflib
from collections.abc import Mapping
from dataclasses import replace

from semievol_ray import taskmodules
from semievol_ray.core.answers import Choice, Labels, Number, Span
from semievol_ray.errors import ConfigError
from semievol_ray.task import Columns as Columns
from semievol_ray.task import Parser as Parser
from semievol_ray.task import Task as Task
from semievol_ray.taskmodules import anchored as anchored

_LETTER = "Reply with one line: 'Answer: ' and the letter of the right option, such as 'Answer: B'."
_NOUN_KINDS = (
    "person", "animal", "plant", "food", "artifact", "body", "substance", "location", "communication", "time",
)  # fmt: skip


def _letters(name: str, question: str, *, group: str | None = None, options_first: bool = False) -> Task:
    return Task(
        name,
        f"{question} {_LETTER}",
        Choice(),
        options_first=options_first,
        columns=Columns(options="options", group=group),
        max_tokens=32,
    )


BUILTIN: dict[str, Task] = {
    task.name: task
    for task in (
        _letters("arc", "Answer the multiple-choice science question."),
        _letters("fpb", "Judge the sentiment of the financial news sentence.", options_first=True),
        _letters("mmlu", "Answer the multiple-choice exam question.", group="Subject"),
        _letters("mmlu_pro", "Answer the multiple-choice exam question.", group="category"),
        _letters("pubmedqa", "Judge from the abstract how the research question is to be answered."),
        _letters("usmle", "Answer the multiple-choice question of a medical licensing exam."),
        Task(
            "convfinqa",
            "Answer the question about the financial report with a number, a percentage as a decimal. "
            "Reply with one line: 'Answer: ' and the number, such as 'Answer: 0.125'.",
            Number(relative_tolerance=1e-2),
            max_tokens=64,
        ),
        Task(
            "gsm8k",
            "Solve the problem. End with one line: 'Answer: ' and the number alone, such as 'Answer: 42'.",
            Number(),
            max_tokens=320,
        ),
        Task(
            "drop",
            "Answer the question about the passage. Reply with one line: 'Answer: ' and a name, a number, a date or a "
            "few words of the passage, such as 'Answer: 12'.",
            Span(),
            max_tokens=48,
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
"""The tasks that a configuration can name without describing them.

The first six of the paper are letters (mmlu_pro up to J), convfinqa a number within 1%. gsm8k's golds are read behind
their "####"; drop accepts any of several golds. `group` is a column that a file may lack.
"""


def builtin(name: str) -> Task:
    """The built-in task of that name; ConfigError with the nearest name otherwise."""
    if name in BUILTIN:
        return BUILTIN[name]
    near = difflib.get_close_matches(name.lower(), BUILTIN, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(
        f"there is no built-in task {name!r}: {hint}built in are {', '.join(BUILTIN)}; one of your own is written "
        "module:ATTRIBUTE"
    )


def resolve(name: str, base_folder: str = ".") -> Task:
    """The task that a name means: a built-in one, or `module:ATTRIBUTE` with the module's file below `base_folder`.

    Raises ConfigError for an unknown name, a module that cannot be run, and an attribute that is no Task.
    """
    if ":" not in name:
        return builtin(name)
    module = taskmodules.find(name, base_folder)
    found = module.value()
    if not isinstance(found, Task):
        raise ConfigError(
            f"task {module.name} is a {type(found).__name__}; it has to be a semievol_ray.tasks.Task(name=..., ...)"
        )
    return replace(found, module=module)


def with_columns(task: Task, renamed: Mapping[str, str]) -> Task:
    """The task with some of its columns read under other names."""
    return replace(task, columns=replace(task.columns, **renamed))
