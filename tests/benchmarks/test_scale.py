"""The scale benchmark's round, small, by the way that large pools go."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scale_round
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
