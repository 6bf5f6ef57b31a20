"""The first step as a pilot, and memory that runs out: told with figures, and stopped where it must be."""

import time
from pathlib import Path

import pytest

from semievol_ray.config import SpeedConfig, TrainConfig
from semievol_ray.engines import fit
from semievol_ray.engines.fit import Sizing, refuse_unfit
from semievol_ray.engines.loss import FILLER, TrainingExample
from semievol_ray.engines.pace import Pace, Work
from semievol_ray.engines.pilot import growth, pilot, refuse_growth, shortage_explained
from semievol_ray.errors import PlacementError

SHORT, LONG = (TrainingExample(tuple(range(5, 5 + n)), 2, 1.0, f"row-{n}") for n in (8, 400))


@pytest.fixture
def sizing(tiny_llama: Path) -> Sizing:
    speed = SpeedConfig(per_device_train_batch_size=2)
    found = refuse_unfit(str(tiny_llama), TrainConfig(), speed, "float32", [SHORT, LONG], on_gpu=False)
    assert found is not None
    return found


def test_longest_batch_that_cannot_fit_beside_what_the_first_step_took_is_refused_then(
    sizing: Sizing, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = growth(sizing, [SHORT, SHORT])
    assert more > 10 * growth(sizing, [LONG, SHORT]) == 0
    monkeypatch.setattr(fit.machine, "free_memory", lambda: int(more / 0.9))
    refuse_growth(sizing, [SHORT, SHORT])
    monkeypatch.setattr(fit.machine, "free_memory", lambda: int(more / 2))
    refuse_growth(sizing, [LONG, LONG])
    with pytest.raises(PlacementError, match=r"its first step took .* takes .* more.*Less is needed with speed\."):
        refuse_growth(sizing, [SHORT, SHORT])
    looks = pilot(sizing, [SHORT, SHORT, LONG, LONG])
    with pytest.raises(PlacementError):
        looks.on_step_end(None, None, None)
    looks.on_step_end(None, None, None)  # the first step alone is the pilot


def test_memory_that_runs_out_is_explained_and_another_error_passes(sizing: Sizing) -> None:
    with (
        pytest.raises(
            PlacementError, match=r"ran out of memory .*DefaultCPUAllocator.* was reckoned to need .*weights"
        ),
        shortage_explained(sizing),
    ):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")
    with pytest.raises(PlacementError, match="a smaller model"), shortage_explained(None):
        raise MemoryError
    with pytest.raises(RuntimeError, match="shapes"), shortage_explained(sizing):
        raise RuntimeError("shapes do not match")


def test_pace_counts_the_tokens_of_each_steps_examples_and_not_what_fills_it_up(sizing: Sizing) -> None:
    pace = Pace(Work([LONG, SHORT, SHORT, FILLER], 2, 2, "float32", False, sizing))
    pace.begin()
    time.sleep(0.05)
    first, second = pace.measured(1), pace.measured(2)
    assert (first["tokens"], second["tokens"]) == (408, 8)
    assert first["tokens_per_second_per_device"] == pytest.approx(first["tokens_per_second"] / 2, rel=1e-3)
    assert first["tokens_per_second"] == pytest.approx(408 / first["seconds"], rel=1e-2)
    assert first["seconds"] >= 0.05
    assert second["memory_bytes"] > 10**7
    assert "mfu" not in first
