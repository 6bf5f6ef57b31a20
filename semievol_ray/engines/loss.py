"""The loss of a fine-tuning, and the padded or packed batches that it is taken over.

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
    row_id: str = ""


FILLER = TrainingExample((0,), 0, 0.0)
"""Stands where a step has fewer examples than the others: one token, nothing to learn."""


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


def pack(examples: Sequence[TrainingExample]) -> dict[str, Any]:
    """The examples one after another as one row of shape (1, T), nothing padded; `weights` holds one for each token.

    Position ids restart with every example and there is no attention mask: that is how transformers knows where an
    example ends, and keeps each from attending to those before it.
    """
    import torch

    real = [e for e in examples if e is not FILLER and e.num_answer] or [FILLER]
    labels = [[IGNORED] * (len(e.ids) - e.num_answer) + list(e.ids[len(e.ids) - e.num_answer :]) for e in real]
    return {
        "input_ids": torch.tensor([[token for e in real for token in e.ids]]),
        "position_ids": torch.tensor([[at for e in real for at in range(len(e.ids))]]),
        "labels": torch.tensor([[label for row in labels for label in row]]),
        "weights": torch.tensor([[e.weight for e in real for _ in e.ids]]),
    }


def packed_forward(model: Any, batch: Mapping[str, Any], logits_to_keep: Any) -> Any:
    """The model's outputs for a pack, logits at the positions to keep (a tensor of them, or how many of the last).

    Without a cache: given one, which is what many models' own settings ask for, transformers looks at no position ids,
    and an example attends to those packed before it.
    """
    inputs = {key: batch[key] for key in ("input_ids", "position_ids")}
    return model(**inputs, use_cache=False, logits_to_keep=logits_to_keep)


def weighted_nll(logits_BKV: Any, labels_BK: Any, weights_BK: Any) -> Any:
    """Sum over the batch of weight x -log P(answer token); `logits_BKV[:, i]` predicts `labels_BK[:, i]`.

    Weights are of shape (B, K), or (B, 1) where a row has one.
    """
    import torch

    nll_BK = torch.nn.functional.cross_entropy(
        logits_BKV.float().transpose(1, 2), labels_BK, ignore_index=IGNORED, reduction="none"
    )
    return (nll_BK * weights_BK).sum()


def answer_loss(model: Any, batch: Mapping[str, Any], num_tokens: Any = None) -> tuple[Any, Any]:
    """`weighted_nll` of a batch over `num_tokens` answer tokens (the batch's own when None), and the outputs.

    Logits are made for the answer positions alone.
    """
    total, out = (_padded_nll if "attention_mask" in batch else _packed_nll)(model, batch)
    return total / ((batch["labels"] != IGNORED).sum() if num_tokens is None else num_tokens), out


def _padded_nll(model: Any, batch: Mapping[str, Any]) -> tuple[Any, Any]:
    labels_BT = batch["labels"]
    longest = max(1, int((labels_BT != IGNORED).sum(1).max()))
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "position_ids")}
    out = model(**inputs, logits_to_keep=longest + 1)
    kept = out.logits[:, -longest - 1 : -1]  # a batch of one token has no position before it
    return weighted_nll(kept, labels_BT[:, labels_BT.shape[1] - kept.shape[1] :], batch["weights"][:, None]), out


def _packed_nll(model: Any, batch: Mapping[str, Any]) -> tuple[Any, Any]:
    import torch

    labels_T = batch["labels"][0]
    answers_K = (labels_T != IGNORED).nonzero()[:, 0]
    if not len(answers_K):  # nothing but FILLER: the worker still takes part in the step
        answers_K = torch.zeros(1, dtype=torch.long, device=labels_T.device)
    before_K = (answers_K - 1).clamp(min=0)
    out = packed_forward(model, batch, before_K)
    return weighted_nll(out.logits, labels_T[None, answers_K], batch["weights"][:, answers_K]), out
