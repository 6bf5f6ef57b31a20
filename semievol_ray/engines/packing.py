"""Whether a model keeps packed examples apart, found out on the model itself.

Invariant: no fine-tuning learns from packed rows on a model in which one example sees another.
"""

from collections.abc import Sequence
from typing import Any

from semievol_ray.engines.loss import TrainingExample, pack, packed_forward
from semievol_ray.errors import ModelError

MOST_SHIFT = 0.01
"""Of the logits' standard deviation: rounding stays far below, an example that sees another is far above."""


def refuse_mixing(model: Any, examples: Sequence[TrainingExample], device: Any) -> None:
    """Raises ModelError when other tokens in an example change the logits of the one packed behind it.

    Two forward passes of one shape, without dropout; all workers call it at once.
    """
    import torch

    real = [e for e in examples if e.num_answer]
    first, second = real[0], real[-1]
    training = model.training
    model.eval()
    with torch.no_grad():
        one, other = (_logits(model, [e, second], device) for e in (first, _changed(first)))
    model.train(training)
    shift = (one - other).abs().max() / one.std()
    if shift > MOST_SHIFT:
        raise ModelError(
            "speed.packing: this model lets an example see those packed before it (changing one moves the next one's "
            f"logits by {float(shift):.2g} of their deviation). Set speed.packing: false."
        )


def _logits(model: Any, examples: Sequence[TrainingExample], device: Any) -> Any:
    """Logits of the last example's positions."""
    batch = {name: tensor.to(device) for name, tensor in pack(examples).items()}
    return packed_forward(model, batch, len(examples[-1].ids)).logits.float()


def _changed(example: TrainingExample) -> TrainingExample:
    """An example of the same length whose every token is another one."""
    low, high = min(example.ids), max(example.ids)
    swapped = tuple((low if token != low else high) if high != low else low + 1 for token in example.ids)
    return TrainingExample(swapped, example.num_answer, example.weight)
