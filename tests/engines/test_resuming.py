"""A fine-tuning that was cut off goes on as if it had not been: on any number of workers, under any ZeRO stage."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trainingcells as cells
from trainingcells import Leg

from semievol_ray import storage
from semievol_ray.config import SpeedConfig, TrainConfig
from semievol_ray.engines import checkpoints
from semievol_ray.engines.finetune import FinetuneSpec

LOSS_TOLERANCE, WEIGHT_TOLERANCE = 1e-5, 2e-5
"""As in the equality matrix: relative, of a step's loss in float32; absolute, of a learned parameter."""
HOPS = ((2, 2), (1, 2), (2, None))
"""Workers, and after how many steps they leave."""


def _spec(
    model: Path, folder: Path, stage: Any, method: Any = "lora", num_rows: int = 10, **train: Any
) -> FinetuneSpec:
    """Six steps, of four examples but in an epoch's last."""
    learns = TrainConfig(learning_rate=1e-2, train_batch_size=4, lora_r=4, lora_alpha=8, method=method, **train)
    spread = SpeedConfig(per_device_train_batch_size=2, zero_stage=stage)
    spec = cells.spec_in(folder, model, learns, spread, num_rows)
    return replace(spec, checkpoints=str(folder / "checkpoints"))


def _on(specs: Sequence[FinetuneSpec], num_workers: int, num_steps: int | None = None) -> Leg:
    spread = [spec.speed.model_copy(update={"num_train_workers": num_workers}) for spec in specs]
    return Leg([replace(spec, speed=speed) for spec, speed in zip(specs, spread, strict=True)], num_workers, num_steps)


def _curve(spec: FinetuneSpec) -> list[float]:
    """The loss of each step as it was learned last."""
    last = {line["step"]: line["loss"] for line in map(json.loads, storage.lines(spec.curve))}
    return [last[step] for step in sorted(last)]


def _assert_equal(found: FinetuneSpec, expected: FinetuneSpec) -> None:
    import torch

    assert _curve(found) == pytest.approx(_curve(expected), rel=LOSS_TOLERANCE), found.out
    one, other = cells.saved(found), cells.saved(expected)
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=WEIGHT_TOLERANCE, msg=f"{found.out}: {name}")


def test_fine_tuning_that_moves_to_other_numbers_of_workers_learns_what_an_undisturbed_one_learns(
    tiny_llama: Path, tmp_path: Path
) -> None:
    calm, moved = (_spec(tiny_llama, tmp_path / name, 2) for name in ("calm", "moved"))
    assert cells.run_legs([_on([calm], 1), *(_on([moved], *hop) for hop in HOPS)], tmp_path) is None
    _assert_equal(moved, calm)
    assert checkpoints.committed_steps(moved.checkpoints) == [4, 2]


@pytest.mark.slow
def test_every_stage_and_method_goes_on_from_its_checkpoints_on_other_numbers_of_workers(
    tiny_llama: Path, tmp_path: Path
) -> None:
    cells_of = [(stage, method) for stage in (0, 1, 2, 3) for method in ("lora", "full")]
    calm, moved = (
        [_spec(tiny_llama, tmp_path / name / f"{stage}-{method}", stage, method) for stage, method in cells_of]
        for name in ("calm", "moved")
    )
    assert cells.run_legs([_on(calm, 1), *(_on(moved, *hop) for hop in HOPS)], tmp_path) is None
    for found, expected in zip(moved, calm, strict=True):
        _assert_equal(found, expected)


def test_fine_tuning_with_dropout_that_was_cut_off_learns_what_an_undisturbed_one_learns(
    tiny_llama: Path, tmp_path: Path
) -> None:
    calm, moved = (_spec(tiny_llama, tmp_path / name, 3, lora_dropout=0.2) for name in ("calm", "moved"))
    assert cells.run_legs([_on([calm], 1), _on([moved], 1, 3), _on([moved], 1)], tmp_path) is None
    _assert_equal(moved, calm)
