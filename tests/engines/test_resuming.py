"""A fine-tuning that was cut off goes on as if it had not been: on any number of workers, under any ZeRO stage."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import trainingcells as cells
from trainingcells import Leg

from semievol_ray import schema, storage
from semievol_ray.config import EarlyStoppingConfig, SpeedConfig, TrainConfig
from semievol_ray.engines import checkpoints
from semievol_ray.engines.checkpointfiles import learned
from semievol_ray.engines.finetune import FinetuneSpec

LOSS_TOLERANCE, WEIGHT_TOLERANCE = 1e-5, 2e-5
"""As in the equality matrix: relative, of a step's loss in float32; absolute, of a learned parameter."""
HOPS = ((2, 2), (1, 2), (2, None))
"""Workers, and after how many steps they leave."""
RULE = EarlyStoppingConfig(patience=1, eval_steps=2, min_delta=1e6)
"""The first validation is the best, the second ends it."""


def _spec(
    model: Path, folder: Path, stage: Any, method: Any = "lora", dtype: str = "float32", **train: Any
) -> FinetuneSpec:
    """Six steps, of four examples but in an epoch's last."""
    learns = TrainConfig(learning_rate=1e-2, train_batch_size=4, lora_r=4, lora_alpha=8, method=method, **train)
    spread = SpeedConfig(per_device_train_batch_size=2, zero_stage=stage)
    spec = cells.spec_in(folder, model, learns, spread, dtype=dtype)
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


def _judged(spec: FinetuneSpec) -> FinetuneSpec:
    """The same, validated on five rows."""
    path = spec.curve.replace("curve.jsonl", "validation.parquet")
    same = {"options": None, "group": None, "answer": "plant"}
    rows = [{"id": f"v{i}", "question": f"a thing {i}", **same} for i in range(5)]
    storage.create_table(path, pa.Table.from_pylist(rows, schema=schema.LABELED))
    return replace(spec, validation=(path,))


def test_fine_tuning_that_moves_to_other_numbers_of_workers_learns_what_an_undisturbed_one_learns(
    tiny_llama: Path, tmp_path: Path
) -> None:
    calm, moved = (_spec(tiny_llama, tmp_path / name, 2) for name in ("calm", "moved"))
    moved = cells.tokenised_ahead(moved)
    assert cells.run_legs([_on([calm], 1), *(_on([moved], *hop) for hop in HOPS)], tmp_path) is None
    _assert_equal(moved, calm)
    assert checkpoints.committed_steps(moved.checkpoints) == [4, 2]


@pytest.mark.slow
def test_every_stage_method_and_dtype_goes_on_from_its_checkpoints_and_early_stopping_and_dropout_too(
    tiny_llama: Path, tmp_path: Path
) -> None:
    """All in one go, for the libraries take longer to load than they take to learn."""
    calm, moved = (
        [
            *(_spec(tiny_llama, tmp_path / name / f"{stage}", stage) for stage in (0, 1, 2, 3)),
            *(_spec(tiny_llama, tmp_path / name / f"{stage}-full", stage, "full") for stage in (1, 3)),
            _judged(_spec(tiny_llama, tmp_path / name / "judged", 3, early_stopping=RULE)),
        ]
        for name in ("calm", "moved")
    )
    alone, cut = (
        [
            *(_spec(tiny_llama, tmp_path / name / f"{stage}", stage, dtype="bfloat16") for stage in (0, 2, 3)),
            _spec(tiny_llama, tmp_path / name / "dropout", 3, lora_dropout=0.2),  # a step's is its own, on one worker
        ]
        for name in ("alone", "cut")
    )
    legs = [_on([*calm, *alone], 1), _on(cut, 1, 3), _on(cut, 1), *(_on(moved, *hop) for hop in HOPS)]
    assert cells.run_legs(legs, tmp_path) is None
    for found, expected in zip([*moved, *cut], [*calm, *alone], strict=True):
        _assert_equal(found, expected)
    _assert_best_was_handed_over(calm[-1])
    _assert_best_was_handed_over(moved[-1])


def _assert_best_was_handed_over(spec: FinetuneSpec) -> None:
    """Step 2 was the best, and step 4, that was no better, the last."""
    import torch

    assert sorted({json.loads(line)["step"] for line in storage.lines(spec.curve)}) == [1, 2, 3, 4]
    best = checkpoints.at(spec.checkpoints, 2)
    assert best is not None
    assert cells.shift(spec) < 1e-4
    kept, found = learned(best), cells.saved(spec)
    assert kept.keys() == found.keys()
    assert all(torch.equal(found[name], kept[name]) for name in kept)
