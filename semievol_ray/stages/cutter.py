"""Cutting rows into the parts of a step, and what every split of a run is cut with.

Invariant: a step that is committed with the same settings and inputs is returned as it was cut then.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from semievol_ray import schema, storage
from semievol_ray.config import RunConfig
from semievol_ray.progress import Bar, Progress
from semievol_ray.runs import Run, Step
from semievol_ray.stages.context import Context
from semievol_ray.stages.reading import REPLACED, InputRow, read_rows, reading_note
from semievol_ray.stages.sources import files_of, sources_digest
from semievol_ray.tasks import Task

SMALLEST_PART, LARGEST_PART, PARTS = 32, 2048, 512


@dataclass(frozen=True)
class Means:
    """What ingest uses of a run's context: a line to say, Ray when tasks are needed, a bar to follow a step by."""

    say: Callable[[str], None] = lambda _: None
    start: Callable[[], object] = lambda: None
    follow: Callable[[str, float, str], AbstractContextManager[Bar]] = Progress(quiet=True).step


def means_of(context: Context) -> Means:
    """A run's own means."""
    return Means(context.progress.say, lambda: context.resources, context.progress.step)


@dataclass(frozen=True)
class Cutter:
    """The run that tables are cut into, with its configuration and task."""

    run: Run
    config: RunConfig
    task: Task
    means: Means = field(default_factory=Means)

    def rows(self, path: str, *, needs_answer: bool) -> Iterator[InputRow]:
        """The rows of a file; says how it is read where that is not plain from its columns, or answers are not."""
        if note := reading_note(path, self.task):
            self.means.say(note)
        mapped, replaced, example = 0, 0, ""
        for row in read_rows(path, self.task, needs_answer=needs_answer):
            mapped, replaced = mapped + row.mapped, replaced + row.replaced
            example = example or (f"line {row.line}: {row.answer}" if row.mapped else "")
            yield row
        for line in told(path, mapped, replaced, example):
            self.means.say(line)

    def settings(self, sample: int | None) -> dict[str, Any]:
        """What the rows of a split depend on besides its file."""
        drawn = {"sample": sample, "seed": self.config.seed} if sample is not None else {}
        return {"task": self.task.settings(), **drawn}

    def done(self, name: str, settings: dict[str, Any], inputs: dict[str, str]) -> Step | None:
        """The step if it is committed with these settings and inputs; its parts are those it was cut into then."""
        if not storage.exists(self.run.path(name, "step.json")):
            return None
        parts = Step(self.run.path(name), name, ()).record()["parts"]
        step = self.run.step(name, settings=settings, inputs=inputs, parts=parts)
        return step if step.committed() else None

    def commit(
        self,
        name: str,
        settings: dict[str, Any],
        inputs: dict[str, str],
        rows: Sequence[dict[str, Any]],
        columns: pa.Schema,
        counts: dict[str, int],
    ) -> Step:
        """The committed step `name` of these rows."""
        size = part_rows(self.config.speed.part_rows, len(rows))
        cuts = [rows[i : i + size] for i in range(0, len(rows), size)]
        step = self.run.step(name, settings=settings, inputs=inputs, parts=part_names(len(cuts)))
        for part, cut in zip(step.parts, cuts, strict=True):
            step.commit_part(part, pa.Table.from_pylist(list(cut), schema=columns))
        self.run.commit(step, counts)
        return step


def part_rows(configured: int | str, num_rows: int) -> int:
    """Rows of a part: as configured, or clamp(num_rows / 512, 32, 2048)."""
    if configured != "auto":
        return int(configured)
    return max(SMALLEST_PART, min(LARGEST_PART, -(-num_rows // PARTS)))


def part_names(num: int) -> list[str]:
    """The names of so many parts, in their order."""
    return [f"part-{i:05d}" for i in range(num)]


def told(path: str, mapped: int, replaced: int, example: str) -> list[str]:
    """What a person is told of rows that were not read literally; nothing where all were."""
    shown = f" (for example {example})" if example else ""
    lines = [f"{path}: {mapped} answers are no plain letter and were mapped to one{shown}"] if mapped else []
    return lines + ([f"{path}: {replaced} rows: {REPLACED}"] if replaced else [])


def labeled_row(row: InputRow) -> dict[str, Any]:
    """A row of LABELED."""
    return {"id": row.id, "question": row.question, "options": row.options, "group": row.group, "answer": row.answer}


def ids_in(steps: Collection[Step]) -> set[str]:
    """The ids of labeled, test, dev and validation rows: splits that people made, so that they fit in memory."""
    return {
        i
        for step in steps
        for part in step.parts
        for i in step.read_part(part, schema.UNLABELED if step.name == "data/dev" else schema.LABELED, ["id"])
        .column("id")
        .to_pylist()
    }


def inputs_of(path: str, above: dict[str, Step]) -> dict[str, str]:
    """The digests that a split comes from: its file's, and those of the splits above it."""
    return {"file": sources_digest(path, files_of(path)), **{name: step.digest() for name, step in above.items()}}
