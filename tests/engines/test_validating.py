"""The validation's verdict and its loss, against what they mean."""

import math
from pathlib import Path

import pytest
import trainingcells as cells

from semievol_ray.config import EarlyStoppingConfig
from semievol_ray.engines.loss import TrainingExample
from semievol_ray.engines.validating import Verdict, eval_steps, validation_loss

EXAMPLES = [TrainingExample(tuple(range(5, 9 + i)), 1 + i % 2, 1.0, f"row-{i}") for i in range(5)]


@pytest.mark.parametrize(
    ("losses", "patience", "min_delta", "best_step", "stops_at"),
    [
        ([3.0, 2.0, 2.5, 2.2, 1.0], 2, 0.0, 2, 4),
        ([3.0, 2.0, 2.5, 1.9, 2.0], 2, 0.0, 4, None),
        ([3.0, 2.95, 2.91, 1.0], 2, 0.1, 1, 3),
        ([math.nan, 2.0, math.nan, 3.0], 2, 0.0, 2, 4),
    ],
)
def test_verdict_stops_after_so_many_losses_that_are_no_lower_than_the_best(
    losses: list[float], patience: int, min_delta: float, best_step: int, stops_at: int | None
) -> None:
    rule, verdict, stopped = EarlyStoppingConfig(patience=patience, min_delta=min_delta), Verdict(), None
    for step, loss in enumerate(losses, 1):
        verdict = verdict.after(step, loss, rule)
        if verdict.is_over(rule):
            stopped = step
            break
    assert (verdict.best_step, stopped) == (best_step, stops_at)


@pytest.mark.parametrize(("given", "num_examples", "steps"), [(None, 10, 3), (None, 8, 2), (7, 10, 7)])
def test_validation_is_once_an_epoch_unless_said_otherwise(given: int | None, num_examples: int, steps: int) -> None:
    assert eval_steps(EarlyStoppingConfig(eval_steps=given), num_examples, 4) == steps


@pytest.mark.parametrize("packing", [False, True])
def test_validation_loss_is_that_of_single_examples_token_by_token(tiny_llama: Path, packing: bool) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    cpu = torch.device("cpu")
    found = validation_loss(model, EXAMPLES, 2, packing=packing, rank=0, world=1, device=cpu)
    total = sum(float(cells._nll(model, example).detach()) for example in EXAMPLES)
    assert found == pytest.approx(total / sum(e.num_answer for e in EXAMPLES), rel=1e-5)
