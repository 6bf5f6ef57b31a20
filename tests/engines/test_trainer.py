"""The Trainer's own part: a loss that is no number ends it."""

from pathlib import Path

import pytest

from semievol_ray.engines.loss import FILLER, TrainingExample
from semievol_ray.engines.trainer import answer_trainer, is_overflow, overflowed
from semievol_ray.errors import RunStopped

EXAMPLES = [TrainingExample((5, 6, 7, 8 + i), 1, 1.0, f"row-{i}") for i in range(4)]


@pytest.mark.parametrize("packing", [False, True])
def test_loss_that_is_no_number_stops_naming_the_step_and_its_rows(
    packing: bool, tiny_llama: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, TrainingArguments

    broken = AutoModelForCausalLM.from_pretrained(tiny_llama)
    broken.model.embed_tokens.weight.data[10] = float("nan")  # a token of row-2 alone
    arguments = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=2, max_steps=2, use_cpu=True, logging_steps=1,
        learning_rate=0.0, logging_nan_inf_filter=False, save_strategy="no", report_to="none", disable_tqdm=True,
        remove_unused_columns=False, dataloader_pin_memory=False,
    )  # fmt: skip
    order = [EXAMPLES[0], EXAMPLES[1], EXAMPLES[2], FILLER]
    trainer = answer_trainer(model=broken, arguments=arguments, examples=order, packing=packing, callbacks=[])
    with pytest.raises(
        RunStopped, match="the loss of step 2 is nan, in the batch of rows row-2; nothing of it was saved"
    ):
        trainer.train()


def test_float16_that_overflows_at_the_smallest_scale_is_told_as_what_it_is() -> None:
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

    scaler = DynamicLossScaler(1, scale_window=1000, min_scale=1, delayed_shift=1, consecutive_hysteresis=False)
    with pytest.raises(Exception, match="loss scale already at minimum") as found:
        scaler.update_scale(overflow=True)
    assert is_overflow(found.value)
    assert not is_overflow(RuntimeError("the loss scale is fine"))
    assert "float16 overflowed in every step up to 18" in overflowed(17)


def test_gradient_that_is_no_number_stops_before_it_is_saved() -> None:
    from types import SimpleNamespace

    from semievol_ray.engines.trainer import _stopper

    state = SimpleNamespace(global_step=1, max_steps=2)
    logs = {"loss": 1.0, "grad_norm": float("inf")}
    with pytest.raises(RunStopped, match="the gradient of step 1 is inf, in the batch of rows row-0, row-1;"):
        _stopper(EXAMPLES).on_log(SimpleNamespace(fp16=False), state, None, logs)
    _stopper(EXAMPLES).on_log(SimpleNamespace(fp16=True), state, None, logs)  # DeepSpeed leaves such a step out
