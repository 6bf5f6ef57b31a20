"""Ingest: input files -> parts with content ids, duplicates collapsed within the pool and removed across splits.

Invariant: priority test > dev, validation > labeled > unlabeled: the lower split loses a row that stands in a higher
one; test is never reduced. Gold answers of unlabeled and dev rows go to tables of their own.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from semievol_ray import schema, storage
from semievol_ray.config import RunConfig, Source
from semievol_ray.core.identity import sample_key
from semievol_ray.errors import DataError
from semievol_ray.runs import Run, Step
from semievol_ray.stages.files import source_digest
from semievol_ray.stages.reading import InputRow, read_rows, reading_note
from semievol_ray.tasks import Task

SMALLEST_PART, LARGEST_PART, PARTS = 32, 2048, 512


@dataclass(frozen=True)
class Fold:
    """Rows that are answered as the pool is, and their gold answers (null where none is known)."""

    rows: Step
    gold: Step


@dataclass(frozen=True)
class Data:
    """The committed steps of a run's data; None where the configuration asks for no such split.

    `annotations` maps the first round that knows them to rows that people labeled.
    """

    labeled: Step
    pool: Fold
    test: Step | None
    dev: Fold | None
    validation: Step | None
    annotations: tuple[tuple[int, Step], ...] = ()


def ingest(run: Run, config: RunConfig, task: Task, say: Callable[[str], None] = lambda _: None) -> Data:
    """Cut the input files into parts; `say` hears what was not read literally.

    Raises DataError for bad input; skips splits that are committed already.
    """
    cutter = _Cutter(run, config, task, say)
    test = ingest_test(run, config, task, config.data.test, say=say) if config.data.test else None
    above: dict[str, Step] = {"test": test} if test else {}
    labels = _ingest_labels(cutter, above)
    folds: dict[str, Step] = {name: labels[name] for name in ("dev", "validation", "labeled") if name in labels}
    pool = _ingest_pool(cutter, {**above, **folds})
    annotations: tuple[tuple[int, Step], ...] = ()
    for index, a in enumerate(config.data.annotations):
        earlier = {step.name.rsplit("/", 1)[1]: step for _, step in annotations}
        step = _ingest_annotations(cutter, index, a.path, {**above, **folds, **earlier})
        annotations += ((a.from_round, step),)
    dev = Fold(labels["dev"], labels["dev_gold"]) if "dev" in labels else None
    return Data(labels["labeled"], pool, test, dev, labels.get("validation"), annotations)


def ingest_test(
    run: Run,
    config: RunConfig,
    task: Task,
    source: Source,
    name: str = "data/test",
    say: Callable[[str], None] = lambda _: None,
) -> Step:
    """Cut one file of test rows into the parts of the step `name`; repeats stay. Raises DataError for bad input."""
    cutter = _Cutter(run, config, task, say)
    settings, inputs = cutter.settings(source.sample), _inputs(source.path, {})
    if done := cutter.done(name, settings, inputs):
        return done
    rows, counts = _unique(cutter, source.path, needs_answer=True, keep_repeats=True)
    counts["in_higher_split"] = 0
    rows = _sampled(rows, source.sample, config.seed)
    return cutter.commit(name, settings, inputs, [_labeled(r) for r in rows], schema.LABELED, counts)


def part_rows(configured: int | str, num_rows: int) -> int:
    """Rows of a part: as configured, or clamp(num_rows / 512, 32, 2048)."""
    if configured != "auto":
        return int(configured)
    return max(SMALLEST_PART, min(LARGEST_PART, -(-num_rows // PARTS)))


def _ingest_labels(cutter: "_Cutter", above: dict[str, Step]) -> dict[str, Step]:
    """D_L, and the dev and validation folds cut from it."""
    source, data = cutter.config.data.labeled, cutter.config.data
    held = {name: num for name, num in (("dev", data.dev), ("validation", data.validation)) if num}
    settings, inputs = {**cutter.settings(source.sample), **held}, _inputs(source.path, above)
    settings |= {"seed": cutter.config.seed} if held else {}
    names = ["labeled", *held, *(["dev_gold"] if data.dev else [])]
    done = {name: cutter.done(f"data/{name}", settings, inputs) for name in names}
    if all(done.values()):
        return {name: step for name, step in done.items() if step}
    taken = _ids(above.values())
    kept, counts = _unique(cutter, source.path, needs_answer=True)
    rows = [row for row in kept if row.id not in taken]
    counts["in_higher_split"] = len(kept) - len(rows)
    rows = _sampled(rows, source.sample, cutter.config.seed)
    if not rows:
        raise DataError(f"{source.path}: every row also stands in the {' or '.join(above)} split; none is left.")
    folds = _held_out(rows, held, cutter.config.seed, source.path)
    tables: dict[str, tuple[list[dict[str, Any]], pa.Schema]] = {
        "labeled": ([_labeled(r) for r in folds["labeled"]], schema.LABELED)
    }
    if data.validation:
        tables["validation"] = ([_labeled(r) for r in folds["validation"]], schema.LABELED)
    if data.dev:
        tables["dev"] = ([_unlabeled(r, 1) for r in folds["dev"]], schema.UNLABELED)
        tables["dev_gold"] = ([{"id": r.id, "answer": r.answer} for r in folds["dev"]], schema.GOLD)
    return {
        name: cutter.commit(f"data/{name}", settings, inputs, table, columns, counts)
        for name, (table, columns) in tables.items()
    }


def _held_out(rows: Sequence[InputRow], held: dict[str, int], seed: int, path: str) -> dict[str, list[InputRow]]:
    """The rows dealt to the folds by a hash of (seed, id), the rest to `labeled`, each in file order."""
    if sum(held.values()) >= len(rows):
        asked = " and ".join(f"data.{name} {num}" for name, num in held.items())
        raise DataError(f"{path}: {asked} would leave none of {len(rows)} labeled rows to learn from. Hold out fewer.")
    order = sorted(rows, key=lambda row: sample_key(seed, f"holdout/{row.id}"))
    fold_of: dict[str, str] = {}
    for name, num in held.items():
        fold_of |= {row.id: name for row in order[len(fold_of) : len(fold_of) + num]}
    folds: dict[str, list[InputRow]] = {name: [] for name in ("labeled", *held)}
    for row in rows:
        folds[fold_of.get(row.id, "labeled")].append(row)
    return folds


def _ingest_pool(cutter: "_Cutter", above: dict[str, Step]) -> Fold:
    source = cutter.config.data.unlabeled
    settings, inputs = cutter.settings(source.sample), _inputs(source.path, above)
    done = [cutter.done(f"data/{name}", settings, inputs) for name in ("unlabeled", "gold")]
    if done[0] and done[1]:
        return Fold(done[0], done[1])
    taken = _ids(above.values())
    copies: Counter[str] = Counter()
    first: dict[str, InputRow] = {}
    for row in cutter.rows(source.path, needs_answer=False):
        copies[row.id] += 1
        first.setdefault(row.id, row)
    rows = [row for row in first.values() if row.id not in taken]
    counts = {
        "read": copies.total(),
        "duplicates": copies.total() - len(first),
        "in_higher_split": len(first) - len(rows),
    }
    rows = _sampled(rows, source.sample, cutter.config.seed)
    if not rows:
        raise DataError(f"{source.path}: every row also stands in the labeled or test split; no pool is left.")
    pool = [_unlabeled(row, copies[row.id]) for row in rows]
    gold = [{"id": row.id, "answer": row.answer} for row in rows]
    return Fold(
        cutter.commit("data/unlabeled", settings, inputs, pool, schema.UNLABELED, counts),
        cutter.commit("data/gold", settings, inputs, gold, schema.GOLD, counts),
    )


def _ingest_annotations(cutter: "_Cutter", index: int, path: str, above: dict[str, Step]) -> Step:
    """Rows that people labeled meanwhile; those without an answer are passed over."""
    name, settings, inputs = f"data/annotations-{index:04d}", cutter.settings(None), _inputs(path, above)
    if done := cutter.done(name, settings, inputs):
        return done
    kept, counts = _unique(cutter, path, needs_answer=False)
    taken = _ids(above.values())
    rows = [row for row in kept if row.id not in taken]
    counts["in_higher_split"] = len(kept) - len(rows)
    if not rows:
        raise DataError(f"{path}: no row with an answer is new. Fill in the answer column, or leave the file out.")
    return cutter.commit(name, settings, inputs, [_labeled(row) for row in rows], schema.LABELED, counts)


def _unique(
    cutter: "_Cutter", path: str, *, needs_answer: bool, keep_repeats: bool = False
) -> tuple[list[InputRow], dict[str, int]]:
    """Rows without repeats (test keeps them); labeled rows that answer one question differently are an error."""
    first: dict[str, InputRow] = {}
    kept, read = [], 0
    for row in cutter.rows(path, needs_answer=needs_answer):
        if row.answer is None:  # an annotation that nobody made yet
            continue
        read += 1
        earlier = first.setdefault(row.id, row)
        if not keep_repeats and _differ(earlier, row, cutter.task):
            raise DataError(
                f"{path}: lines {earlier.line} and {row.line} ask the same question and answer it differently: "
                f"{earlier.answer!r} and {row.answer!r}. Remove one of them."
            )
        if earlier is row or keep_repeats:
            kept.append(row)
    return kept, {"read": read, "duplicates": read - len(first)}


def _differ(a: InputRow, b: InputRow, task: Task) -> bool:
    if a.answer is None or b.answer is None:
        return a.answer is not b.answer
    return a.answer != b.answer and not task.equal(a.answer, b.answer)


def _sampled(rows: list[InputRow], num: int | None, seed: int) -> list[InputRow]:
    """`num` rows (None: all) drawn by a hash of (seed, id), in file order: the same whatever the order of the file."""
    if num is None:
        return rows
    drawn = {row.id for row in sorted(rows, key=lambda r: sample_key(seed, r.id))[:num]}
    return [row for row in rows if row.id in drawn][:num]


def _labeled(row: InputRow) -> dict[str, Any]:
    return {"id": row.id, "question": row.question, "options": row.options, "group": row.group, "answer": row.answer}


def _unlabeled(row: InputRow, num_copies: int) -> dict[str, Any]:
    same = {"id": row.id, "question": row.question, "options": row.options, "group": row.group}
    return {**same, "num_copies": num_copies}


def _ids(steps: Collection[Step]) -> set[str]:
    return {
        i
        for step in steps
        for part in step.parts
        for i in step.read_part(part, schema.UNLABELED if step.name == "data/dev" else schema.LABELED)
        .column("id")
        .to_pylist()
    }


def _inputs(path: str, above: dict[str, Step]) -> dict[str, str]:
    return {"file": source_digest(path), **{name: step.digest() for name, step in above.items()}}


@dataclass(frozen=True)
class _Cutter:
    """The run that tables are cut into, with its configuration and task."""

    run: Run
    config: RunConfig
    task: Task
    say: Callable[[str], None]

    def rows(self, path: str, *, needs_answer: bool) -> Iterator[InputRow]:
        """The rows of a file; says how it is read where that is not plain from its columns, or answers are not."""
        if note := reading_note(path, self.task):
            self.say(note)
        mapped, example = 0, ""
        for row in read_rows(path, self.task, needs_answer=needs_answer):
            mapped += row.mapped
            example = example or (f"line {row.line}: {row.answer}" if row.mapped else "")
            yield row
        if mapped:
            self.say(f"{path}: {mapped} answers are no plain letter and were mapped to one (for example {example})")

    def settings(self, sample: int | None) -> dict[str, Any]:
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
        size = part_rows(self.config.speed.part_rows, len(rows))
        cuts = [rows[i : i + size] for i in range(0, len(rows), size)]
        parts = [f"part-{i:05d}" for i in range(len(cuts))]
        step = self.run.step(name, settings=settings, inputs=inputs, parts=parts)
        for part, cut in zip(parts, cuts, strict=True):
            step.commit_part(part, pa.Table.from_pylist(list(cut), schema=columns))
        self.run.commit(step, counts)
        return step
