"""The labeled rows D_L, the dev and validation folds cut from them, test rows, and what people labeled meanwhile.

Invariant: labeled rows that ask the same and answer differently are refused; test repeats stay.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from semievol_ray import schema
from semievol_ray.config import Source
from semievol_ray.core.identity import sample_key
from semievol_ray.errors import DataError
from semievol_ray.runs import Step
from semievol_ray.stages.cutter import Cutter, ids_in, inputs_of, labeled_row
from semievol_ray.stages.reading import InputRow
from semievol_ray.tasks import Task


def cut_test(cutter: Cutter, source: Source, name: str) -> Step:
    """The step `name` of a file of test rows, repeats included."""
    settings, inputs = cutter.settings(source.sample), inputs_of(source.path, {})
    if done := cutter.done(name, settings, inputs):
        return done
    rows, counts = _unique(cutter, source.path, needs_answer=True, keep_repeats=True)
    counts["in_higher_split"] = 0
    rows = _sampled(rows, source.sample, cutter.config.seed)
    return cutter.commit(name, settings, inputs, [labeled_row(r) for r in rows], schema.LABELED, counts)


def cut_labels(cutter: Cutter, above: dict[str, Step]) -> dict[str, Step]:
    """D_L, and the dev and validation folds cut from it."""
    source, data = cutter.config.data.labeled, cutter.config.data
    held = {name: num for name, num in (("dev", data.dev), ("validation", data.validation)) if num}
    settings, inputs = {**cutter.settings(source.sample), **held}, inputs_of(source.path, above)
    settings |= {"seed": cutter.config.seed} if held else {}
    names = ["labeled", *held, *(["dev_gold"] if data.dev else [])]
    done = {name: cutter.done(f"data/{name}", settings, inputs) for name in names}
    if all(done.values()):
        return {name: step for name, step in done.items() if step}
    taken = ids_in(above.values())
    kept, counts = _unique(cutter, source.path, needs_answer=True)
    rows = [row for row in kept if row.id not in taken]
    counts["in_higher_split"] = len(kept) - len(rows)
    rows = _sampled(rows, source.sample, cutter.config.seed)
    if not rows:
        raise DataError(f"{source.path}: every row also stands in the {' or '.join(above)} split; none is left.")
    folds = _held_out(rows, held, cutter.config.seed, source.path)
    tables: dict[str, tuple[list[dict[str, Any]], pa.Schema]] = {
        "labeled": ([labeled_row(r) for r in folds["labeled"]], schema.LABELED)
    }
    if data.validation:
        tables["validation"] = ([labeled_row(r) for r in folds["validation"]], schema.LABELED)
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


def cut_annotations(cutter: Cutter, index: int, path: str, above: dict[str, Step]) -> Step:
    """Rows that people labeled meanwhile; those without an answer are passed over."""
    name, settings, inputs = f"data/annotations-{index:04d}", cutter.settings(None), inputs_of(path, above)
    if done := cutter.done(name, settings, inputs):
        return done
    kept, counts = _unique(cutter, path, needs_answer=False)
    taken = ids_in(above.values())
    rows = [row for row in kept if row.id not in taken]
    counts["in_higher_split"] = len(kept) - len(rows)
    if not rows:
        raise DataError(f"{path}: no row with an answer is new. Fill in the answer column, or leave the file out.")
    return cutter.commit(name, settings, inputs, [labeled_row(row) for row in rows], schema.LABELED, counts)


def _unique(
    cutter: Cutter, path: str, *, needs_answer: bool, keep_repeats: bool = False
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


def _unlabeled(row: InputRow, num_copies: int) -> dict[str, Any]:
    same = {"id": row.id, "question": row.question, "options": row.options, "group": row.group}
    return {**same, "num_copies": num_copies}
