"""What every arm of `benchmarks.generate` is given: the rows, the prompts as the product renders them, the settings.

Invariant: all arms of a workload send the same token ids, drawn with the same sampling, to the same weights.
"""

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from semievol_ray import configfile
from semievol_ray.core.consensus import shuffled
from semievol_ray.core.prompts import Message, justification_messages
from semievol_ray.engines.rendering import load_tokenizer, prompt_ids
from semievol_ray.task import Task

Messages = tuple[Message, ...]


@dataclass(frozen=True)
class Pass:
    """One collaborator's questions: a conversation and its token ids for each row, in the order of the rows."""

    name: str
    warm: bool
    temperature: float
    max_tokens: int
    messages: tuple[Messages, ...]
    ids: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Plan:
    """A workload; `merged` is the adapter in the base's weights, None where it is served dynamically or not at all.

    `engine` holds vLLM's arguments of every arm, `gold` the rows' right answers, for statistics alone.
    """

    tree: Mapping[str, Any]
    model: str
    adapter: str | None
    merged: str | None
    rows: tuple[Mapping[str, Any], ...]
    gold: tuple[str, ...]
    passes: tuple[Pass, ...]
    engine: Mapping[str, Any]
    end_of_turn: int
    justify_max_tokens: int
    on_gpu: bool
    num_threads: int
    template_date: str

    @property
    def has_warm(self) -> bool:
        """Whether M_warm answers, and justifies; else the base model does."""
        return self.adapter is not None

    def task(self) -> Task:
        """The task of the rows."""
        return configfile.parse(dict(self.tree), "benchmark").resolve_task()

    def groups(self) -> list[tuple[str, list[Pass]]]:
        """(weights, the passes that they answer), those that justify last: an engine each, as few as there can be."""
        if self.merged is None:
            return [(self.model, list(self.passes))]
        cold = [p for p in self.passes if not p.warm]
        return [(self.model, cold), (self.merged, [p for p in self.passes if p.warm])]

    def weights_of(self, *, warm: bool) -> str:
        """The model folder that answers for the base, or for M_warm."""
        return self.merged if warm and self.merged else self.model

    def lora(self, *, warm: bool) -> str | None:
        """The adapter that a request has to name; None where none, or a merged one, answers."""
        return self.adapter if warm and not self.merged else None

    def justifications(self, drafts: Mapping[str, Sequence[str]]) -> list[Messages]:
        """What M_warm is asked once it has the drafts' texts, by pass: a conversation a row."""
        task, asked = self.task(), []
        for i, row in enumerate(self.rows):
            read = [task.parse(drafts[p.name][i], row["options"]) for p in self.passes]
            question = task.render_question(row["question"], row["options"])
            candidates = shuffled(row["id"], [found.answer if found else None for found in read])
            asked.append(justification_messages(task.instruction, question, candidates))
        return asked

    def ids_of(self, asked: Sequence[Messages]) -> list[tuple[int, ...]]:
        """Token ids of conversations, by the product's own rendering."""
        tokenizer = load_tokenizer(self.model)
        return [tuple(prompt_ids(tokenizer, messages, self.template_date)) for messages in asked]

    def first(self, num_rows: int) -> "Plan":
        """The same workload with fewer rows."""
        passes = [replace(p, messages=p.messages[:num_rows], ids=p.ids[:num_rows]) for p in self.passes]
        return replace(self, rows=self.rows[:num_rows], gold=self.gold[:num_rows], passes=tuple(passes))


@dataclass
class Answers:
    """What an arm gave: texts by pass and of the justifications, a row's after the other, and what it counted.

    `looked_up` and `found` are prompt tokens of vLLM's prefix cache; None where the arm cannot tell.
    """

    drafts: dict[str, list[str]] = field(default_factory=dict)
    justified: list[str] = field(default_factory=list)
    num_tokens: int = 0
    num_prompt_tokens: int = 0
    num_starts: int = 0
    looked_up: int | None = None
    found: int | None = None

    def cached(self, looked_up: int, found: int) -> None:
        """Add one engine's counts of its prefix cache."""
        self.looked_up = (self.looked_up or 0) + looked_up
        self.found = (self.found or 0) + found


def save(value: Any, path: Path) -> None:
    """Write a plan or answers for the process beside."""
    path.write_bytes(pickle.dumps(value))


def load(path: Path) -> Any:
    """What `save` wrote, in a folder of this benchmark's own."""
    return pickle.loads(path.read_bytes())
