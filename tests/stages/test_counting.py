"""A step of answers is committed by one reading of each part, several at a time, wherever that is done."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from semievol_ray import schema, storage
from semievol_ray.engines.base import Sampling
from semievol_ray.errors import StorageError
from semievol_ray.listing import measured, read_listing
from semievol_ray.runs import Run, Step
from semievol_ray.stages import counting
from semievol_ray.stages.answer import answer
from semievol_ray.stages.context import Context
from semievol_ray.stages.draft import DraftJob
from semievol_ray.stages.groups import Wanted

NUM_PARTS = 12
ContextOf = Callable[..., Context]


def _drafts(number: int) -> pa.Table:
    """Two answered rows and one unreadable one; in every fourth part one that failed."""
    rows = [{"text": "plant", "answer": "plant"}, {"text": "food", "answer": "food"}, {"text": "?"}]
    rows += [{"error": f"too long in part {number}"}] if number % 4 == 1 else []
    tokens = {"num_tokens": number, "num_prompt_tokens": 10, "num_demonstrations": 0}
    full = [{"id": f"r{number}-{i}", **tokens, **row} for i, row in enumerate(rows)]
    return pa.Table.from_pylist(full, schema=schema.DRAFTS)


@pytest.fixture
def answered(run: Run, pool: Step) -> Wanted:
    """A collaborator's drafts whose parts are all there, and whose step is not committed."""
    parts = [f"part-{i:05d}" for i in range(NUM_PARTS)]
    step = run.step("drafts/a", settings={}, inputs={}, parts=parts, numerics={"adapter_serving": "merged"})
    for number, part in enumerate(parts):
        step.commit_part(part, _drafts(number))
    return Wanted(DraftJob(step, pool, pool, None, 0, Sampling(0.0, 16), None), "scripted", None)


def test_each_part_is_read_once_for_the_commit_and_several_at_a_time(
    context_of: ContextOf, answered: Wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, held, most, lock, read = Counter[str](), 0, 0, threading.Lock(), storage.read

    def slow(path: str) -> bytes:
        nonlocal held, most
        with lock:
            reads[path] += path.endswith(".parquet")
            held += 1
            most = max(most, held)
        time.sleep(0.005)
        with lock:
            held -= 1
        return read(path)

    monkeypatch.setattr(storage, "read", slow)
    step = answered.job.step
    answer(context_of(max_error_rate=1.0), "round-1", [answered])
    assert {path: num for path, num in reads.items() if num} == dict.fromkeys(map(step.part_path, step.parts), 1)
    assert 1 < most <= 4


def test_what_a_commit_counts_and_keeps_is_what_lies_in_the_parts(context_of: ContextOf, answered: Wanted) -> None:
    step = answered.job.step
    answer(context_of(max_error_rate=1.0), "round-1", [answered])
    committed = step.committed() or {}
    assert committed["num_rows"] == 3 * NUM_PARTS + 3
    assert committed["metrics"] == {
        "num_errors": 3,
        "num_unreadable": NUM_PARTS,
        "num_tokens": 3 * sum(range(NUM_PARTS)) + 1 + 5 + 9,
        "num_prompt_tokens": 10 * (3 * NUM_PARTS + 3),
    }
    assert read_listing(step.path) == measured(step.path, step.parts)


def test_part_of_other_columns_or_damaged_commits_nothing(context_of: ContextOf, answered: Wanted) -> None:
    step, context = answered.job.step, context_of(max_error_rate=1.0)
    path = Path(step.part_path(step.parts[5]))
    whole = path.read_bytes()
    for damage, told in (
        (whole[:-9], "is damaged"),
        (storage.table_bytes(pa.table({"id": ["x"]})), "has the columns"),
    ):
        path.write_bytes(damage)
        with pytest.raises(StorageError, match=rf"{step.parts[5]}\.parquet {told}"):
            answer(context, "round-1", [answered])
        assert step.committed() is None


@pytest.mark.slow
@pytest.mark.usefixtures("small_ray")
def test_many_parts_are_counted_by_tasks_to_the_same(answered: Wanted, monkeypatch: pytest.MonkeyPatch) -> None:
    job, came, started = answered.job, list[int](), list[int]()
    by_threads = counting.counted(job, lambda: started.append(1), lambda: None)
    facts = counting.facts_of(job.step, lambda: started.append(1))
    assert not started

    monkeypatch.setattr(counting, "DRIVER_PARTS", NUM_PARTS - 1)
    by_tasks = counting.counted(job, lambda: started.append(1), lambda: came.append(1))
    assert by_tasks == by_threads
    assert by_tasks.first_error == "too long in part 1"
    assert counting.facts_of(job.step, lambda: started.append(1)) == facts == by_threads.facts
    assert list(by_tasks.facts) == list(job.step.parts)
    assert (len(came), len(started)) == (NUM_PARTS, 2)
