"""The loss of a fine-tuning does not depend on how it is spread: the matrix of stages, workers, packing and methods."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal

import pytest
import trainingcells as cells

from semievol_ray.config import SpeedConfig, TrainConfig
from semievol_ray.engines.finetune import FinetuneSpec

LOSS_TOLERANCE, WEIGHT_TOLERANCE = 1e-5, 2e-5
"""Relative, of a step's loss in float32; absolute, of a parameter after six steps of a learning rate of 0.01."""
DORA_TOLERANCE = 5e-5
"""Under every stage alike: gradients of A that are next to nothing, and which Adam enlarges, round another way."""
SHIFT = 1e-4
"""Of the logits' standard deviation, of what was saved and is read anew."""
Cell = tuple[int, int, bool, Literal["lora", "full"]]
MATRIX: list[Cell] = list(product((0, 1, 2, 3), (1, 2), (False, True), ("lora", "full")))  # type: ignore[arg-type]


def _spec(cell: Cell, model: Path, folder: Path, train: dict[str, Any] | None = None, **speed: Any) -> FinetuneSpec:
    """Two epochs over ten examples, four a step and so two in an epoch's last; further settings of train and speed.

    Those that are packed are tokenised ahead.
    """
    stage, workers, packing, method = cell
    more = train or {}
    name = "-".join(map(str, (*cell, *more, *speed)))
    learns = TrainConfig(learning_rate=1e-2, train_batch_size=4, lora_r=4, lora_alpha=8, method=method, **more)
    spread = SpeedConfig(
        num_train_workers=workers, per_device_train_batch_size=2, zero_stage=stage, packing=packing, **speed
    )
    spec = cells.spec_in(folder / name, model, learns, spread)
    return cells.tokenised_ahead(spec) if packing else spec


def _assert_as_the_plain_loop(specs: Sequence[FinetuneSpec]) -> None:
    import torch

    reference = {spec.train: cells.plain_loop(spec) for spec in {spec.train: spec for spec in specs}.values()}
    for spec in specs:
        curve, learned = reference[spec.train]
        found = cells.saved(spec)
        assert cells.losses(spec) == pytest.approx(curve, rel=LOSS_TOLERANCE), spec.out
        assert found.keys() == learned.keys(), spec.out
        assert cells.shift(spec) < SHIFT, spec.out
        for name, value in learned.items():
            most = DORA_TOLERANCE if spec.train.use_dora else WEIGHT_TOLERANCE
            torch.testing.assert_close(found[name], value, rtol=0, atol=most, msg=f"{spec.out}: {name}")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_every_stage_packing_and_method_learns_what_a_plain_loop_learns(
    workers: int, tiny_llama: Path, tmp_path: Path
) -> None:
    specs = [_spec(cell, tiny_llama, tmp_path) for cell in MATRIX if cell[1] == workers]
    specs += [
        _spec((1, workers, True, "lora"), tiny_llama, tmp_path, offload="optimizer"),
        _spec((3, workers, False, "full"), tiny_llama, tmp_path, offload="all"),
        _spec((3, workers, True, "full"), tiny_llama, tmp_path, gradient_checkpointing=True),
        _spec((2, workers, True, "lora"), tiny_llama, tmp_path, {"use_rslora": True}),
        _spec((3, workers, False, "lora"), tiny_llama, tmp_path, {"use_dora": True}),
    ]
    assert cells.run_workers(specs, workers, tmp_path) is None
    _assert_as_the_plain_loop(specs)
