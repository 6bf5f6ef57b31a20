"""The scale benchmark: its round, small, by the way that large pools go, and what is reckoned from its figures."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scale_model, scale_round
from semievol_ray.stages import pool


@pytest.mark.slow
def test_round_whose_pool_ray_tasks_read_is_run_to_its_decisions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "SMALL_BYTES", 0)  # as if it were too large for the driver
    seen: dict[str, dict[str, Any]] = {}

    @contextlib.contextmanager
    def phase(name: str) -> Iterator[dict[str, Any]]:
        yield seen.setdefault(name, {})

    scale_round.write_inputs(str(tmp_path), 96)
    scale_round.work({"folder": str(tmp_path)}, phase)
    assert seen["ingest"]["parts"] == 3
    assert len(list((tmp_path / "run/rounds/0001/select").glob("part-*.parquet"))) == 3


def test_driver_time_is_told_apart_by_parts_and_by_seconds() -> None:
    measured = {"10 rows": (313, 25.0), "100 rows": (511, 83.0), "1,000 rows": (512, 548.0), "10,000 rows": (4883, 5e3)}
    metrics: dict[str, float] = {}
    for size, (parts, seconds) in measured.items():
        spent = 1.5 + 0.011 * scale_model.NUM_SESSIONS * parts + 0.07 * seconds
        metrics |= {f"{size}, parts": parts, f"{size}, answer seconds": seconds}
        metrics |= {f"{size}, answer driver CPU seconds": 0.6 * spent, f"{size}, answer ray CPU seconds": 0.4 * spent}

    found = scale_model.driving(metrics)
    assert found == {scale_model.A_PART: pytest.approx(11), scale_model.A_SECOND: pytest.approx(70)}
    without_one = {name: value for name, value in metrics.items() if not name.startswith("1,000 ")}
    assert scale_model.driving(without_one).keys() == found.keys()
    assert not scale_model.driving({k: v for k, v in without_one.items() if not k.startswith("10 ")})


def test_model_of_a_larger_run_needs_all_that_it_stands_on() -> None:
    assert scale_model.added({"10 rows, parts": 3.0}) == []
