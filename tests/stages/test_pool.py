"""The pool cut by tasks from small chunks: the same as a plain dict would, whatever is killed or odd on the way."""

import csv
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from semievol_ray import configfile, schema, storage
from semievol_ray.core.identity import row_id, sample_key
from semievol_ray.errors import DataError
from semievol_ray.runs import Run, Step
from semievol_ray.stages import chunks, pool, poolread
from semievol_ray.stages.cutter import Means
from semievol_ray.stages.ingest import Data, ingest

TASK = {"name": "kinds", "kind": "labels", "instruction": "Say.", "labels": ["plant", "animal"]}
LABELED = ["labeled 1", "labeled 2", "in both"]
pytestmark = pytest.mark.usefixtures("mapped_here", "in_tasks")

Row = tuple[str, str | None]
Cut = tuple[list[tuple[str, int]], list[tuple[str, str | None]], dict[str, int]]


@pytest.fixture
def in_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 200 bytes, all of them in tasks."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 200)
    monkeypatch.setattr(chunks, "MOST_ROWS", 4)
    monkeypatch.setattr(poolread, "_ROWS_AT_ONCE", 3)
    monkeypatch.setattr(pool, "SMALL_BYTES", -1)


def write_jsonl(path: Path, rows: Sequence[Row]) -> None:
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows))


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("question", "answer"), *rows])


@pytest.fixture
def cut(tmp_path: Path) -> Callable[..., Data]:
    """cut(pool path, run folder, sample=, part_rows=, means=) -> the data of a run of its own."""
    write_csv(tmp_path / "labeled.csv", [(text, "plant") for text in LABELED])

    def make(path: Path | str, folder: str = "run", means: Means | None = None, **changed: Any) -> Data:
        unlabeled = {"path": str(path), "sample": changed.get("sample")}
        tree = {
            "name": "n", "task": TASK, "model": "m", "speed": {"part_rows": changed.get("part_rows", 5)},
            "data": {"labeled": str(tmp_path / "labeled.csv"), "unlabeled": unlabeled},
        }  # fmt: skip
        config = configfile.parse(tree, "test")
        with Run.open(str(tmp_path / folder), {}) as run:
            return ingest(run, config, config.resolve_task(), means or Means())

    return make


def content(step: Step, columns: pa.Schema) -> list[dict[str, Any]]:
    return [row for part in step.parts for row in step.read_part(part, columns).to_pylist()]


def found(data: Data) -> Cut:
    """(id, num_copies) of the pool, (id, answer) of its gold, counts."""
    rows = [(row["id"], row["num_copies"]) for row in content(data.pool.rows, schema.UNLABELED)]
    gold = [(row["id"], row["answer"]) for row in content(data.pool.gold, schema.GOLD)]
    return rows, gold, (data.pool.rows.committed() or {})["metrics"]


def by_dict(rows: Sequence[Row], sample: int | None = None) -> Cut:
    """What a dict over the rows in order makes of them."""
    ids = [row_id("kinds", question, None) for question, _ in rows]
    answers: dict[str, str | None] = {}
    for of, (_, answer) in zip(ids, rows, strict=True):
        answers.setdefault(of, answer)
    copies, higher = Counter(ids), {row_id("kinds", text, None) for text in LABELED}
    kept = [of for of in answers if of not in higher]
    drawn = set(sorted(kept, key=lambda of: sample_key(0, of))[:sample])
    kept = [of for of in kept if of in drawn]
    counts = {
        "read": len(ids),
        "duplicates": len(ids) - len(answers),
        "in_higher_split": len(higher & set(answers)),
    }
    return [(of, copies[of]) for of in kept], [(of, answers[of]) for of in kept], counts


def random_rows(seed: int, num: int) -> list[Row]:
    draw = random.Random(seed)
    texts = [*LABELED, *(f"a thing of number {i} " + "and so on" * draw.randrange(6) for i in range(num // 2))]
    return [(draw.choice(texts), draw.choice(["plant", "animal", None])) for _ in range(num)]


@pytest.mark.parametrize("write", [write_jsonl, write_csv])
@pytest.mark.parametrize(("seed", "sample", "part_rows"), [(1, None, 5), (2, 9, 4), (3, None, 1000), (4, 500, 1)])
def test_pool_of_many_chunks_is_what_a_dict_makes_of_its_rows(
    write: Callable[..., None], seed: int, sample: int | None, part_rows: int, cut: Callable[..., Data], tmp_path: Path
) -> None:
    rows = random_rows(seed, 60)
    write(tmp_path / "pool.x", rows)
    path = (tmp_path / "pool.x").rename(tmp_path / ("pool.jsonl" if write is write_jsonl else "pool.csv"))

    data = cut(path, sample=sample, part_rows=part_rows)

    assert found(data) == by_dict(rows, sample)
    lengths = [data.pool.rows.num_rows([part]) for part in data.pool.rows.parts]
    assert set(lengths[:-1]) <= {part_rows}


def test_pool_cut_by_tasks_is_the_pool_cut_in_the_driver_byte_for_byte(
    cut: Callable[..., Data], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl(tmp_path / "pool.jsonl", random_rows(5, 50))
    by_tasks = cut(tmp_path / "pool.jsonl").pool
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1 << 20)
    monkeypatch.setattr(pool, "SMALL_BYTES", 1 << 20)
    here = cut(tmp_path / "pool.jsonl", "other").pool
    assert (by_tasks.rows.digest(), by_tasks.gold.digest()) == (here.rows.digest(), here.gold.digest())


def test_pool_killed_after_any_commit_goes_on_to_the_same_bytes(
    cut: Callable[..., Data], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl(tmp_path / "pool.jsonl", random_rows(6, 24))
    whole, commit, written, kills = cut(tmp_path / "pool.jsonl").pool, Step.commit_part, [0], 0
    digests = whole.rows.digest(), whole.gold.digest()

    def dying(step: Step, part: str, table: pa.Table) -> bool:
        if written[0] == 0:
            raise KeyboardInterrupt
        is_new = commit(step, part, table)
        written[0] -= is_new
        return is_new

    monkeypatch.setattr(Step, "commit_part", dying)
    while True:  # each attempt dies with its third new part
        written[0] = 2
        is_cut = (tmp_path / "killed" / "data" / "unlabeled").exists()  # from then on other settings change no part
        try:
            again = cut(tmp_path / "pool.jsonl", "killed", part_rows=3 if is_cut else 5).pool
            break
        except KeyboardInterrupt:
            kills += 1
    assert kills > 8
    assert (again.rows.digest(), again.gold.digest()) == digests


def test_finished_pool_leaves_nothing_else_and_needs_no_ray(cut: Callable[..., Data], tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pool.jsonl", random_rows(7, 30))
    started: list[str] = []
    means = Means(start=lambda: started.append("ray"))
    cut(tmp_path / "pool.jsonl", means=means)
    assert started
    assert sorted(path.name for path in (tmp_path / "run" / "data").iterdir()) == ["gold", "labeled", "unlabeled"]
    started.clear()
    cut(tmp_path / "pool.jsonl", means=means)
    assert not started


def test_wrong_row_of_a_late_chunk_has_its_true_line_and_once_mended_is_read(
    cut: Callable[..., Data], tmp_path: Path
) -> None:
    rows = [(f"a question of some length with number {i}", "plant") for i in range(40)]
    write_jsonl(tmp_path / "pool.jsonl", [*rows[:33], (" ", None), *rows[33:]])
    with pytest.raises(DataError, match=r"pool\.jsonl, line 34: column 'question' is empty"):
        cut(tmp_path / "pool.jsonl")
    write_jsonl(tmp_path / "pool.jsonl", rows)
    assert found(cut(tmp_path / "pool.jsonl")) == by_dict(rows)


def test_shards_of_a_folder_are_one_pool_and_empty_ones_are_passed_over(
    cut: Callable[..., Data], tmp_path: Path
) -> None:
    rows, folder = random_rows(8, 40), tmp_path / "a pool of März"
    folder.mkdir()
    for i in range(0, 40, 10):
        write_jsonl(folder / f"shard {i:02d} ü.jsonl", rows[i : i + 10])
        (folder / f"shard {i:02d} z.jsonl").touch()
    assert found(cut(folder)) == by_dict(rows)
    assert found(cut(f"{folder}/shard*.jsonl", "other")) == by_dict(rows)


def test_halves_of_surrogate_pairs_are_replaced_counted_and_said_once(cut: Callable[..., Data], tmp_path: Path) -> None:
    path, said = tmp_path / "pool.jsonl", list[str]()
    lines = [
        '{"question": "a \\ud800 b"}',
        '{"question": "\\ud83d\\ude00"}',
        '{"question": "c\\udfff", "answer": null}',
    ]
    path.write_text("\n".join(lines * 20))
    data = cut(path, means=Means(say=said.append))
    texts = [row["question"] for row in content(data.pool.rows, schema.UNLABELED)]
    assert texts == ["a \ufffd b", "\U0001f600", "c\ufffd"]
    assert [line for line in said if "40 rows: " in line and "U+FFFD" in line] == said


def test_rows_of_ten_megabytes_and_control_characters_are_read(
    cut: Callable[..., Data], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 3 << 20)
    texts = ["x" * 10_000_000, "nul \x00 bell \x07 escape \x1b[31m", 'a "quoted",\nbroken line', "last"]
    write_jsonl(tmp_path / "pool.jsonl", [(text, None) for text in texts])
    write_csv(tmp_path / "pool.csv", [(text, None) for text in texts])
    for name in ("pool.jsonl", "pool.csv"):
        rows = content(cut(tmp_path / name, f"run-{name}").pool.rows, schema.UNLABELED)
        assert [row["question"] for row in rows] == texts


@pytest.mark.parametrize("content_of", ["", "question,answer\n"], ids=["empty", "header"])
def test_pool_without_rows_is_refused(content_of: str, cut: Callable[..., Data], tmp_path: Path) -> None:
    (tmp_path / "pool.csv").write_text(content_of)
    with pytest.raises(DataError, match=r"pool\.csv holds no rows"):
        cut(tmp_path / "pool.csv")


def test_rest_of_a_cut_pool_is_removed_by_the_next_start(cut: Callable[..., Data], tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pool.jsonl", random_rows(9, 30))
    rest = tmp_path / "run" / "data" / "read"
    record = cut(tmp_path / "pool.jsonl").pool.rows.record()
    rest.mkdir()  # as a kill while its parts are removed leaves it
    (rest / "step.json").write_text(json.dumps(record))
    cut(tmp_path / "pool.jsonl")
    assert not rest.exists()


def test_list_of_chunks_is_read_once_for_the_verdict_however_many_they_are(
    cut: Callable[..., Data], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "SMALL_BYTES", 1 << 20)  # decided here, and not in a task
    write_jsonl(tmp_path / "pool.jsonl", random_rows(10, 40))
    paths, read = list[str](), storage.read

    def counted(path: str) -> bytes:
        paths.append(path)
        return read(path)

    monkeypatch.setattr(storage, "read", counted)
    cut(tmp_path / "pool.jsonl")
    assert sum(path.endswith("data/read/parts.json") for path in paths) <= 2
