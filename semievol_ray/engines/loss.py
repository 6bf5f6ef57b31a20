"""The loss of a fine-tuning, and the padded batches that it is taken over.

Invariant: only answer tokens count, each with its row's weight, and logits are made for their positions alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

IGNORED = -100


@dataclass(frozen=True)
class TrainingExample:
    """Token ids of a prompt and its answer; the answer is the last `num_answer` of them."""

    ids: tuple[int, ...]
    num_answer: int
    weight: float


def collate(examples: Sequence[TrainingExample], pad: int) -> dict[str, Any]:
    """A left-padded batch of shape (B, T): answers end together, so that only the last positions need logits."""
    import torch

    width = max(len(e.ids) for e in examples)
    gaps = [width - len(e.ids) for e in examples]
    ids_BT = torch.tensor([[pad] * gap + list(e.ids) for gap, e in zip(gaps, examples, strict=True)])
    mask_BT = torch.tensor([[0] * gap + [1] * len(e.ids) for gap, e in zip(gaps, examples, strict=True)])
    labels_BT = ids_BT.clone()
    for row, example in enumerate(examples):
        labels_BT[row, : width - example.num_answer] = IGNORED
    return {
        "input_ids": ids_BT,
        "attention_mask": mask_BT,
        "position_ids": (mask_BT.cumsum(1) - 1).clamp(min=0),
        "labels": labels_BT,
        "weights": torch.tensor([e.weight for e in examples]),
    }


def weighted_nll(logits_BKV: Any, labels_BK: Any, weights_B: Any) -> Any:
    """Sum over the batch of weight x -log P(answer token); `logits_BKV[:, i]` predicts `labels_BK[:, i]`."""
    import torch

    nll_BK = torch.nn.functional.cross_entropy(
        logits_BKV.float().transpose(1, 2), labels_BK, ignore_index=IGNORED, reduction="none"
    )
    return (nll_BK * weights_B[:, None]).sum()


def answer_loss(model: Any, batch: Mapping[str, Any], num_tokens: Any = None) -> tuple[Any, Any]:
    """`weighted_nll` of a collated batch over `num_tokens` answer tokens (the batch's own when None), and the outputs.

    Logits are made for the answer positions alone.
    """
    labels_BT = batch["labels"]
    longest = int((labels_BT != IGNORED).sum(1).max())
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "position_ids")}
    out = model(**inputs, logits_to_keep=longest + 1)
    total = weighted_nll(out.logits[:, :-1], labels_BT[:, -longest:], batch["weights"])
    return total / ((labels_BT != IGNORED).sum() if num_tokens is None else num_tokens), out
