"""What events tell of pace and troubles, and what ledgers tell of retries."""

import json
from pathlib import Path
from typing import Any

import pytest

from semievol_ray.activity import activity
from semievol_ray.configfile import parse
from semievol_ray.forecast import Left, run_seconds_left, step_seconds_left
from semievol_ray.inventory import take_inventory
from semievol_ray.retries import ENGINE_ENDED, NEW_DRIVER, retries
from tests.rundirs import run_tree

STARTED = {"time": "2026-01-01T10:00:00.000000+00:00", "kind": "session_started", "fence": 1, "session": "s",
           "jobs": ["drafts"]}  # fmt: skip


def at(seconds: int) -> str:
    return f"2026-01-01T{10 + seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.000000+00:00"


def part(seconds: int, number: int, replica: str = "a", **more: Any) -> dict[str, Any]:
    figures = {"num_rows": 10, "num_errors": 0, "num_tokens": 50, "num_prompt_tokens": 200, "seconds": 20.0}
    told = {"step": "drafts", "part": f"part-{number:05d}", "replica": replica, "node": "n", **figures, **more}
    return {"time": at(seconds), "kind": "part_committed", "fence": 1, **told}


def test_pace_is_that_of_the_last_minutes_by_step_and_replica() -> None:
    events = [STARTED, *(part(100 + 10 * i, i, "ab"[i % 2]) for i in range(60))]

    found = activity(events)

    assert found.pace is not None
    assert found.pace.rows_per_second == pytest.approx(31 * 10 / 300)
    assert found.pace.tokens_per_second == pytest.approx(31 * 50 / 300)
    assert [r.name for r in found.replicas] == ["a", "b"]
    assert sum(r.rows_per_second for r in found.replicas) == pytest.approx(found.pace.rows_per_second)
    assert found.by_step["drafts"] == found.pace


def test_pace_of_a_young_session_counts_from_its_first_part_and_not_from_the_loading() -> None:
    found = activity([STARTED, part(400, 0), part(410, 1)])

    assert found.pace is not None
    assert found.pace.rows_per_second == pytest.approx(20 / 30)


@pytest.mark.parametrize("last", ["session_ended", "run_started"])
def test_pace_is_unknown_when_no_session_is_under_way(last: str) -> None:
    found = activity([STARTED, part(400, 0), {"time": at(420), "kind": last, "fence": 1, "session": "s"}])

    assert found.pace is None
    assert found.replicas == ()
    assert found.reports["drafts"]["part-00000"]["num_rows"] == 10


def test_pace_of_a_session_goes_on_when_another_beside_it_ends() -> None:
    far = {**STARTED, "time": at(1), "session": "far", "jobs": ["far"]}
    events = [STARTED, far, part(400, 0), part(405, 0, step="far", replica="b"), part(410, 1)]

    both = activity(events)
    alone = activity([*events, {"time": at(411), "kind": "session_ended", "session": "far"}, part(420, 2)])

    assert set(both.by_step) == {"drafts", "far"}
    assert [replica.name for replica in both.replicas] == ["a", "b"]
    assert alone.pace is not None
    assert set(alone.by_step) == {"drafts"}
    assert alone.pace.rows_per_second == pytest.approx(30 / 40)


def test_prefix_hit_rate_is_that_of_the_tokens_and_not_of_the_parts() -> None:
    told = [part(400, 0, num_looked_up=300, num_found=90), part(410, 1, num_looked_up=100, num_found=90)]

    pace, silent = activity([STARTED, *told]).pace, activity([STARTED, part(400, 0)]).pace

    assert pace is not None
    assert silent is not None
    assert pace.prefix_hit_rate == pytest.approx(180 / 400)
    assert silent.prefix_hit_rate is None


def test_part_told_twice_counts_once() -> None:
    found = activity([STARTED, part(400, 0), part(410, 0, num_rows=7)])

    assert found.reports["drafts"]["part-00000"]["num_rows"] == 7
    assert found.pace is not None
    assert found.pace.rows_per_second == pytest.approx(7 / 20)


def test_events_of_unknown_kinds_are_counted_with_the_last_reason() -> None:
    events = [
        {"time": at(1), "kind": "engine_died", "fence": 1, "seen": "first"},
        {"time": at(2), "kind": "engine_died", "fence": 1, "seen": "CUDA out of memory"},
        {"time": at(3), "kind": "moon_rose", "fence": 1, "phase": "full", "parts": ["x"]},
    ]

    died, moon = activity(events).troubles

    assert (died.kind, died.num, died.last_reason) == ("engine_died", 2, "CUDA out of memory")
    assert (moon.num, moon.last_reason) == (1, "phase full")


def ledger(folder: Path, name: str, *fences: int, ends: tuple[str, ...] = ()) -> None:
    attempts = folder / "step/attempts"
    attempts.mkdir(parents=True, exist_ok=True)
    (folder / "step/step.json").write_text("{}")
    lines = [json.dumps({"attempt": i, "time": at(i), "fence": f}) for i, f in enumerate(fences, start=1)]
    (attempts / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    ended = [json.dumps({"attempt": i, "time": at(i), "end": end}) for i, end in enumerate(ends, start=1)]
    (attempts / f"{name}.ends.jsonl").write_text("\n".join(ended))


def test_retries_are_attempts_beyond_the_first_by_reason(tmp_path: Path) -> None:
    ledger(tmp_path, "part-00000", 1)
    ledger(tmp_path, "part-00001", 1, 1, 1, ends=("stalled",))
    ledger(tmp_path, "part-00002", 1, 2)

    found = retries(f"{tmp_path}/step", take_inventory(str(tmp_path)).steps["step"])

    assert found == {"their engine stalled": 1, ENGINE_ENDED: 1, NEW_DRIVER: 1}


def test_retries_of_many_parts_are_counted_without_opening_every_ledger(tmp_path: Path) -> None:
    for i in range(80):
        ledger(tmp_path, f"part-{i:05d}", 1, 2)

    found = retries(f"{tmp_path}/step", take_inventory(str(tmp_path)).steps["step"])

    assert found.total() == 80
    assert found[NEW_DRIVER] == 50


def test_inventory_counts_ledgers_of_object_stores_by_their_objects(tmp_path: Path) -> None:
    folder = tmp_path / "step/attempts/part-00000.jsonl.d"
    folder.mkdir(parents=True)
    (tmp_path / "step/step.json").write_text("{}")
    for i in range(3):
        (folder / f"{i:08d}").write_text("{}\n")

    assert take_inventory(str(tmp_path)).steps["step"].ledger_lines == {"part-00000": 3}


def test_time_left_of_a_step_follows_its_parts() -> None:
    assert step_seconds_left(10, 40, 1000, 50.0) == pytest.approx(60.0)
    assert step_seconds_left(0, 40, 0, 50.0) is None
    assert step_seconds_left(10, 40, 1000, 0.0) is None


def committed(num_rows: int, seconds: float = 1.0) -> dict[str, Any]:
    return {"committed": {"num_rows": num_rows, "seconds": seconds}}


def test_time_left_of_a_run_is_its_answers_and_the_fine_tuning_by_examples(tmp_path: Path) -> None:
    config = parse(run_tree(tmp_path, labeled=12, unlabeled=24, test=8), "test")
    records = {
        "data/labeled": committed(100), "data/unlabeled": committed(1000), "data/test": committed(50),
        "rounds/0000/examples": committed(100), "rounds/0000/train": committed(0, 20.0),
    }  # fmt: skip
    left = [Left("rounds/0001/drafts/base_1", 400), Left("rounds/0001/justify"), Left("rounds/0001/train")]

    # 600 drafts and 1000 justifications at 10/s; then 100 + 0.5 x 1000 examples at 0.2 s each
    assert run_seconds_left(config, records, left, 10.0) == pytest.approx(160 + 120)
    assert run_seconds_left(config, records, left, None) is None


def test_time_left_of_a_run_without_a_fine_tuning_to_go_by_is_unknown(tmp_path: Path) -> None:
    config = parse(run_tree(tmp_path, labeled=12, unlabeled=24, test=8), "test")

    assert run_seconds_left(config, {"data/labeled": committed(9)}, [Left("rounds/0000/train")], None) is None
