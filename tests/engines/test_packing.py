"""Packed examples: what a model computes of each is what it computes of it alone, or packing is refused."""

from pathlib import Path
from typing import Any

import pytest

from semievol_ray.engines.loss import FILLER, IGNORED, TrainingExample, answer_loss, collate, pack, packed_forward
from semievol_ray.engines.packing import refuse_mixing
from semievol_ray.errors import ModelError

EXAMPLES = [
    TrainingExample((5, 6, 7, 8, 9, 10, 11), 2, 1.0),
    TrainingExample((12, 13), 1, 0.5),
    TrainingExample(tuple(range(20, 41)), 5, 0.25),
]


def _model(folder: Path, attention: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention).eval()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_of_packed_examples_equal_those_alone(attention: str, tiny_llama: Path) -> None:
    import torch

    model, batch = _model(tiny_llama, attention), pack(EXAMPLES)
    with torch.no_grad():
        packed = packed_forward(model, batch, 0).logits[0]
        alone = torch.cat([model(input_ids=torch.tensor([e.ids])).logits[0] for e in EXAMPLES])
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-5)


def test_loss_and_gradients_of_a_pack_equal_those_of_the_padded_batch(tiny_llama: Path) -> None:
    import torch

    model = _model(tiny_llama, "sdpa")
    found = []
    for batch in (collate([*EXAMPLES, FILLER], pad=0), pack([EXAMPLES[0], FILLER, *EXAMPLES[1:]])):
        model.zero_grad()
        loss, _ = answer_loss(model, batch)
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    for padded, packed in zip(*found, strict=True):
        torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form", [lambda rows: collate(rows, pad=0), pack])
def test_batch_of_fillers_alone_has_a_loss_of_zero_with_gradients(form: Any, tiny_llama: Path) -> None:
    model = _model(tiny_llama, "sdpa")
    loss, _ = answer_loss(model, form([FILLER, FILLER]), 7)
    loss.backward()
    assert float(loss.detach()) == 0
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)


def test_pack_marks_only_answers_and_gives_every_token_its_examples_weight() -> None:
    batch = pack(EXAMPLES[:2])
    assert batch["labels"].tolist() == [[IGNORED] * 5 + [10, 11, IGNORED, 13]]
    assert batch["weights"].tolist() == [[1.0] * 7 + [0.5] * 2]


def test_packing_on_a_model_that_mixes_examples_is_refused(tiny_llama: Path) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    refuse_mixing(_model(tiny_llama, "sdpa"), EXAMPLES, "cpu")
    config = MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, state_size=4, initializer_range=0.5)

    class Recurrent(MambaForCausalLM):
        """A recurrent model, which knows no positions."""

        def forward(self, input_ids: Any, logits_to_keep: int = 0, **_: Any) -> Any:
            return super().forward(input_ids=input_ids, logits_to_keep=logits_to_keep)

    with pytest.raises(ModelError, match=r"speed\.packing: .*Set speed\.packing: false"):
        refuse_mixing(Recurrent(config), EXAMPLES, "cpu")
