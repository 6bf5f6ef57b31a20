"""Re-open: another process reads what was saved, and what it finds is the step's."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.kill_training_model import spec_in, write_model
from semievol_ray.engines.reopening import store_logits
from semievol_ray.errors import AdapterError
from semievol_ray.stages.reopen import reopened


def test_nothing_is_compared_where_nothing_was_stored(tmp_path: Path) -> None:
    spec = spec_in(tmp_path, tmp_path / "no-model", workers=1, zero_stage=2)
    assert reopened(replace(spec, logits=f"{tmp_path}/logits"), 1.0, 0.0) == {}


@pytest.mark.slow
@pytest.mark.usefixtures("small_ray")
def test_another_process_compares_what_was_saved_and_refuses_what_differs(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    path = write_model(tmp_path / "model")
    spec = spec_in(tmp_path, path, workers=1, zero_stage=2)
    spec = replace(spec, logits=f"{tmp_path}/logits", out=str(path))
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    store_logits(spec.logits, model, None, None, tuple(range(5, 40)), device="cpu", first=True)
    found = reopened(spec, 1.0, 0.0)
    assert found["logit_shift"] < 1e-4
    assert found["reopen_seconds"] > 0
    model.lm_head.weight.data = model.lm_head.weight.data.roll(1, 0)
    store_logits(spec.logits, model, None, None, tuple(range(5, 40)), device="cpu", first=True)
    with pytest.raises(AdapterError, match="largest difference"):
        reopened(spec, 1.0, 0.0)
