"""Distinct: a run's splits looked through for near duplicates, reported or left out, as committed steps.

Invariant: test is never reduced; of two rows alike, the one in the higher split stays.
"""

from dataclasses import replace

import pyarrow as pa

from semievol_ray import schema
from semievol_ray.runs import Step
from semievol_ray.stages.context import Context
from semievol_ray.stages.counting import commit
from semievol_ray.stages.ingest import Data
from semievol_ray.stages.minhash import key_parts, layout_of
from semievol_ray.stages.near_duplicates import KEYS, STEP, exact_only, losing, num_lost, without, write_near_duplicates
from semievol_ray.stages.scaffold import remove, resumed


def distinct(context: Context, data: Data) -> Data:
    """The data as `data.near_duplicates` asks for: looked at, and without the rows that are almost another's repeat."""
    asked = context.config.data.near_duplicates
    if asked.action == "off":
        return data
    splits = _splits(data)
    only_exact = exact_only(splits, asked.most_rows)
    settings = {"similarity": asked.similarity, "exact_only": only_exact}
    inputs = {name: split.digest() for name, split in splits.items()}
    step = context.step(STEP, settings=settings, inputs=inputs, parts=losing(splits))
    if not step.committed():
        assert context.resources
        resumed(context.run, KEYS, settings, inputs)
        keys = context.run.step(KEYS, settings=settings, inputs=inputs, parts=list(key_parts(layout_of(splits))))
        num_rows = sum(int((split.committed() or {"num_rows": 0})["num_rows"]) for split in splits.values())
        with context.progress.step("near duplicates", num_rows) as bar:
            metrics = write_near_duplicates(step, keys, splits, asked.similarity, only_exact, bar.advance)
        commit(context, step, metrics)
        _tell(context, metrics["lost"], asked.action)
    remove(context.run, KEYS)
    return _without(context, data, splits, step) if asked.action == "drop" else data


def _splits(data: Data) -> dict[str, Step]:
    found = {
        "test": data.test,
        "validation": data.validation,
        "dev": data.dev.rows if data.dev else None,
        "labeled": data.labeled,
        "unlabeled": data.pool.rows,
    }
    return {name: step for name, step in found.items() if step}


def _without(context: Context, data: Data, splits: dict[str, Step], found: Step) -> Data:
    left = {name: _left(context, name, split, found) for name, split in splits.items() if name != "test"}
    return replace(
        data,
        labeled=left["labeled"],
        pool=replace(data.pool, rows=left["unlabeled"]),
        dev=replace(data.dev, rows=left["dev"]) if data.dev else None,
        validation=left.get("validation"),
    )


def _left(context: Context, name: str, split: Step, found: Step) -> Step:
    """A split without the rows it loses; itself where it loses none."""
    num_left_out = num_lost(found, name)
    if not num_left_out:
        return split
    columns: pa.Schema = schema.LABELED if name in ("labeled", "validation") else schema.UNLABELED
    step = context.step(
        f"data/distinct/{name}",
        settings={},
        inputs={"rows": split.digest(), "near_duplicates": found.digest()},
        parts=split.parts,
    )
    if not step.committed():
        assert context.resources
        without(step, split, columns, found, name)
        commit(context, step, {"left_out": num_left_out})
    return step


def _tell(context: Context, lost: dict[str, int], action: str) -> None:
    """One line about what was found, where there is anything."""
    found = ", ".join(f"{num} of {name}" for name, num in lost.items() if num)
    if found:
        done = "left out" if action == "drop" else "kept; data.near_duplicates.action: drop leaves them out"
        context.progress.say(f"near duplicates of rows in a higher split or before them: {found}; {done}")
