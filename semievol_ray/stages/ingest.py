"""Ingest: input files -> parts with content ids, duplicates collapsed within the pool and removed across splits.

Invariant: priority test > labeled > unlabeled: the lower split loses a row that stands in a higher one; test is never
reduced. Gold answers of unlabeled rows go to a table of their own.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from semievol_ray import schema, storage
from semievol_ray.config import RunConfig, Source
from semievol_ray.core.identity import sample_key
from semievol_ray.errors import DataError
from semievol_ray.runs import Run, Step
from semievol_ray.stages.reading import InputRow, read_rows
from semievol_ray.tasks import Task

SMALLEST_PART, LARGEST_PART, PARTS = 32, 2048, 512


@dataclass(frozen=True)
class Data:
    """The committed steps of a run's data; `test` is None where the configuration names none."""

    labeled: Step
    unlabeled: Step
    gold: Step
    test: Step | None


def ingest(run: Run, config: RunConfig, task: Task) -> Data:
    """Cut the input files into parts. Raises DataError for bad input; skips splits that are committed already."""
    test = ingest_test(run, config, task, config.data.test) if config.data.test else None
    above = {"test": test} if test else {}
    labeled = _ingest_split(run, config, task, "data/labeled", config.data.labeled, above)
    unlabeled, gold = _ingest_pool(run, config, task, {**above, "labeled": labeled})
    return Data(labeled, unlabeled, gold, test)


def ingest_test(run: Run, config: RunConfig, task: Task, source: Source, name: str = "data/test") -> Step:
    """Cut one file of test rows into the parts of the step `name`; repeats stay. Raises DataError for bad input."""
    return _ingest_split(run, config, task, name, source, {}, keep_repeats=True)


def part_rows(configured: int | str, num_rows: int) -> int:
    """Rows of a part: as configured, or clamp(num_rows / 512, 32, 2048)."""
    if configured != "auto":
        return int(configured)
    return max(SMALLEST_PART, min(LARGEST_PART, -(-num_rows // PARTS)))


def _ingest_split(
    run: Run,
    config: RunConfig,
    task: Task,
    name: str,
    source: Source,
    above: dict[str, Step],
    *,
    keep_repeats: bool = False,
) -> Step:
    inputs = _inputs(source, above)
    if done := _done(run, name, config, task, source, inputs):
        return done
    taken = _ids(above.values())
    kept, counts = _unique(source.path, read_rows(source.path, task, needs_answer=True), keep_repeats=keep_repeats)
    rows = [row for row in kept if row.id not in taken]
    counts["in_higher_split"] = len(kept) - len(rows)
    if source.sample is not None:
        rows = _sampled(rows, source.sample, config.seed)
    if not rows:
        raise DataError(f"{source.path}: every row also stands in the {' or '.join(above)} split; none is left.")
    table = [
        {"id": r.id, "question": r.question, "options": r.options, "group": r.group, "answer": r.answer} for r in rows
    ]
    return _commit(run, name, config, task, source, inputs, {"": (table, schema.LABELED)}, counts)[""]


def _ingest_pool(run: Run, config: RunConfig, task: Task, above: dict[str, Step]) -> tuple[Step, Step]:
    source, inputs = config.data.unlabeled, _inputs(config.data.unlabeled, above)
    done = [_done(run, name, config, task, source, inputs) for name in ("data/unlabeled", "data/gold")]
    if done[0] and done[1]:
        return done[0], done[1]
    taken = _ids(above.values())
    copies: Counter[str] = Counter()
    first: dict[str, InputRow] = {}
    for row in read_rows(source.path, task, needs_answer=False):
        copies[row.id] += 1
        first.setdefault(row.id, row)
    rows = [row for row in first.values() if row.id not in taken]
    counts = {
        "read": copies.total(),
        "duplicates": copies.total() - len(first),
        "in_higher_split": len(first) - len(rows),
    }
    if source.sample is not None:
        rows = _sampled(rows, source.sample, config.seed)
    if not rows:
        raise DataError(f"{source.path}: every row also stands in the labeled or test split; no pool is left.")
    pool: list[dict[str, Any]] = [
        {"id": r.id, "question": r.question, "options": r.options, "group": r.group, "num_copies": copies[r.id]}
        for r in rows
    ]
    gold: list[dict[str, Any]] = [{"id": r.id, "answer": r.answer} for r in rows]
    tables = {"unlabeled": (pool, schema.UNLABELED), "gold": (gold, schema.GOLD)}
    steps = _commit(run, "data", config, task, source, inputs, tables, counts)
    return steps["unlabeled"], steps["gold"]


def _unique(path: str, rows: Iterable[InputRow], *, keep_repeats: bool) -> tuple[list[InputRow], dict[str, int]]:
    """Rows without repeats (test keeps them); labeled rows that answer one question differently are an error."""
    first: dict[str, InputRow] = {}
    kept, read = [], 0
    for row in rows:
        read += 1
        earlier = first.setdefault(row.id, row)
        if earlier.answer != row.answer and not keep_repeats:
            raise DataError(
                f"{path}: lines {earlier.line} and {row.line} ask the same question and answer it differently: "
                f"{earlier.answer!r} and {row.answer!r}. Remove one of them."
            )
        if earlier is row or keep_repeats:
            kept.append(row)
    return kept, {"read": read, "duplicates": read - len(first)}


def _sampled(rows: Sequence[InputRow], num: int, seed: int) -> list[InputRow]:
    """`num` rows drawn by a hash of (seed, id), in file order: the same whatever the order of the file."""
    drawn = {row.id for row in sorted(rows, key=lambda r: sample_key(seed, r.id))[:num]}
    return [row for row in rows if row.id in drawn][:num]


def _ids(steps: Collection[Step]) -> set[str]:
    return {
        i
        for step in steps
        for part in step.parts
        for i in step.read_part(part, schema.LABELED).column("id").to_pylist()
    }


def _inputs(source: Source, above: dict[str, Step]) -> dict[str, str]:
    return {"file": _file_digest(source.path), **{name: step.digest() for name, step in above.items()}}


def _file_digest(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file. Check the path under data: in the configuration.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def _settings(config: RunConfig, task: Task, source: Source) -> dict[str, Any]:
    sample = {"sample": source.sample, "seed": config.seed} if source.sample is not None else {}
    return {"task": task.settings(), **sample}


def _done(run: Run, name: str, config: RunConfig, task: Task, source: Source, inputs: dict[str, str]) -> Step | None:
    """The step if it is committed with these settings and inputs; its parts are those it was cut into then."""
    if not storage.exists(run.path(name, "step.json")):
        return None
    parts = Step(run.path(name), name, ()).record()["parts"]
    step = run.step(name, settings=_settings(config, task, source), inputs=inputs, parts=parts)
    return step if step.committed() else None


def _commit(
    run: Run,
    folder: str,
    config: RunConfig,
    task: Task,
    source: Source,
    inputs: dict[str, str],
    tables: dict[str, tuple[list[dict[str, Any]], pa.Schema]],
    counts: dict[str, int],
) -> dict[str, Step]:
    steps = {}
    for name, (rows, columns) in tables.items():
        size = part_rows(config.speed.part_rows, len(rows))
        cuts = [rows[i : i + size] for i in range(0, len(rows), size)]
        parts = [f"part-{i:05d}" for i in range(len(cuts))]
        path = f"{folder}/{name}" if name else folder
        step = run.step(path, settings=_settings(config, task, source), inputs=inputs, parts=parts)
        for part, cut in zip(parts, cuts, strict=True):
            step.commit_part(part, pa.Table.from_pylist(cut, schema=columns))
        run.commit(step, counts)
        steps[name] = step
    return steps
