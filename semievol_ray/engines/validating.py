"""The loss on rows that are not learned from, and when it says that a fine-tuning has seen its best.

Invariant: the loss is that of training: weighted negative log-likelihood of the answer tokens over their number,
whatever the number of workers; every worker comes to the same verdict.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from semievol_ray.config import EarlyStoppingConfig
from semievol_ray.engines.loss import FILLER, IGNORED, TrainingExample, answer_loss, collate, pack


@dataclass(frozen=True)
class Verdict:
    """What the validations said so far: the best loss, after which step, and how many since were no better."""

    best_loss: float = math.inf
    best_step: int = 0
    num_since: int = 0
    num: int = 0

    def after(self, step: int, loss: float, rule: EarlyStoppingConfig) -> "Verdict":
        """The verdict once the loss after another step is known; a loss that is no number is no better."""
        if loss < self.best_loss - rule.min_delta:
            return Verdict(loss, step, 0, self.num + 1)
        return replace(self, num_since=self.num_since + 1, num=self.num + 1)

    def is_over(self, rule: EarlyStoppingConfig) -> bool:
        """Whether patience is at an end."""
        return self.num_since >= rule.patience


def eval_steps(rule: EarlyStoppingConfig, num_examples: int, batch: int) -> int:
    """Optimizer steps between two validations: those of an epoch when the configuration gives no number."""
    return rule.eval_steps or -(-num_examples // batch)


def validation_loss(
    engine: Any, examples: Sequence[TrainingExample], size: int, *, packing: bool, rank: int, world: int, device: Any
) -> float:
    """The loss over all examples, `size` of them at a time; all workers call it at once, each does its share."""
    import torch

    ordered = sorted(examples, key=lambda example: -len(example.ids))
    num_batches = -(-len(ordered) // (size * world))  # ZeRO-3 wants as many forward passes of each worker
    mine = [*ordered[rank::world], *[FILLER] * (num_batches * size)][: num_batches * size]
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    engine.eval()
    with torch.no_grad():
        for start in range(0, len(mine), size):
            chosen = mine[start : start + size]
            batch = {k: v.to(device) for k, v in (pack(chosen) if packing else collate(chosen, pad=0)).items()}
            total, _ = answer_loss(engine, batch, 1)
            sums += torch.stack([total.double(), (batch["labels"] != IGNORED).sum().double()])
    engine.train()
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(sums)
    return float(sums[0] / sums[1])
