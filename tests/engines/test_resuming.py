"""A fine-tuning that was cut off goes on as if it had not been: on any number of workers, under any ZeRO stage."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Ran:
    """Fine-tunings that were left alone, and the same that were cut off: moved about, with dropout, stopped early."""

    calm: tuple[FinetuneSpec, FinetuneSpec, FinetuneSpec]
    cut: tuple[FinetuneSpec, FinetuneSpec, FinetuneSpec]


@pytest.fixture(scope="module")
def ran(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """All of them in one go, for the libraries take longer to load than they take to learn."""
    folder = tmp_path_factory.mktemp("resuming")
    rule = EarlyStoppingConfig(patience=1, eval_steps=2, min_delta=1e6)  # the first validation is the best
    calm, cut = (
        (
            _spec(tiny_llama, folder / name / "moved", 2),
            _spec(tiny_llama, folder / name / "dropout", 3, lora_dropout=0.2),
            _judged(_spec(tiny_llama, folder / name / "judged", 3, early_stopping=rule)),
        )
        for name in ("calm", "cut")
    )
    legs = [_on(calm[:2], 1), _on(calm[2:], 2), *(_on(cut[:1], *hop) for hop in HOPS)]
    legs += [_on(cut[1:2], 1, 3), _on(cut[1:2], 1), _on(cut[2:], 2, 3), _on(cut[2:], 2)]
    assert cells.run_legs(legs, folder) is None
    return Ran(calm, cut)


def _judged(spec: FinetuneSpec) -> FinetuneSpec:
    """The same, validated on five rows."""
    path = spec.curve.replace("curve.jsonl", "validation.parquet")
    same = {"options": None, "group": None, "answer": "plant"}
    rows = [{"id": f"v{i}", "question": f"a thing {i}", **same} for i in range(5)]
    storage.create_table(path, pa.Table.from_pylist(rows, schema=schema.LABELED))
    return replace(spec, validation=(path,))


def test_fine_tuning_that_moves_to_other_numbers_of_workers_learns_what_an_undisturbed_one_learns(ran: Ran) -> None:
    _assert_equal(ran.cut[0], ran.calm[0])
    assert checkpoints.committed_steps(ran.cut[0].checkpoints) == [4, 2]


def test_fine_tuning_with_dropout_that_was_cut_off_learns_what_an_undisturbed_one_learns(ran: Ran) -> None:
    _assert_equal(ran.cut[1], ran.calm[1])


def test_early_stopping_hands_over_the_best_checkpoint_also_when_it_was_cut_off(ran: Ran) -> None:
    import torch

    for spec in (ran.calm[2], ran.cut[2]):
        assert [json.loads(line)["step"] for line in storage.lines(spec.curve)] == [1, 2, 3, 4]
        best = checkpoints.at(spec.checkpoints, 2)
        assert best is not None
        kept, found = learned(best), cells.saved(spec)
        assert kept.keys() == found.keys()
        assert all(torch.equal(found[name], kept[name]) for name in kept)
    _assert_equal(ran.cut[2], ran.calm[2])


@pytest.mark.slow
def test_every_stage_method_and_dtype_goes_on_from_its_checkpoints_on_other_numbers_of_workers(
    tiny_llama: Path, tmp_path: Path
) -> None:
    cells_of = [(stage, method) for stage in (0, 1, 2, 3) for method in ("lora", "full")]
    calm, moved = (
        [_spec(tiny_llama, tmp_path / name / f"{stage}-{method}", stage, method) for stage, method in cells_of]
        for name in ("calm", "moved")
    )
    low, cut = (
        [_spec(tiny_llama, tmp_path / name / f"{stage}", stage, dtype="bfloat16") for stage in (0, 1, 2, 3)]
        for name in ("low", "cut")
    )
    legs = [_on([*calm, *low], 1), _on(cut, 1, 3), _on(cut, 1), *(_on(moved, *hop) for hop in HOPS)]
    assert cells.run_legs(legs, tmp_path) is None
    for found, expected in zip([*moved, *cut], [*calm, *low], strict=True):
        _assert_equal(found, expected)
