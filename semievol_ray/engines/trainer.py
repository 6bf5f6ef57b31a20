"""transformers' Trainer with the loss of this project, and its loss curve as a file.

Invariant: a loss that is no number ends the fine-tuning in every worker at the same step, before anything is saved.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

from semievol_ray.engines.loss import TrainingExample, answer_loss, collate, pack
from semievol_ray.engines.pace import Pace
from semievol_ray.engines.packing import refuse_mixing
from semievol_ray.errors import RunStopped
from semievol_ray.events import LineLog


def answer_trainer(
    *, model: Any, arguments: Any, examples: Sequence[TrainingExample], packing: bool, callbacks: Sequence[Any]
) -> Any:
    """A Trainer that takes the examples in the order given; its loss is `answer_loss` over the global batch."""
    from torch.utils.data import SequentialSampler
    from transformers import Trainer

    class AnswerTrainer(Trainer):
        """A Trainer whose loss is `weighted_nll` over the answer positions alone."""

        is_checked = not packing

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            if not self.is_checked:
                refuse_mixing(model, examples[:2], self.args.device)
                self.is_checked = True
            loss, out = answer_loss(model, inputs, num_items_in_batch)
            loss = loss * self.args.world_size  # gradients are averaged over the workers
            return (loss, out) if return_outputs else loss

        def floating_point_ops(self, inputs: Any) -> int:  # noqa: ARG002
            """Not counted here: the Trainer's count walks through all modules, 9 ms a micro-batch of 30 LoRA layers."""
            return 0

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return SequentialSampler(train_dataset or examples)

    trainer = AnswerTrainer(
        model=model,
        args=arguments,
        train_dataset=examples,
        data_collator=pack if packing else lambda rows: collate(rows, pad=0),
        callbacks=[*callbacks, _stopper(examples)],
    )
    trainer.model_accepts_loss_kwargs = True  # else the Trainer counts no tokens for models that take none themselves
    return trainer


def curve_writer(path: str, pace: Pace) -> Any:
    """A callback that appends one JSON line a step: step, of how many, loss, gradient norm, learning rate, pace."""
    from transformers import TrainerCallback

    curve = LineLog(path)

    class CurveWriter(TrainerCallback):
        """Writes in the first worker alone."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            pace.begin()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
            if state.is_world_process_zero and logs and "loss" in logs:
                measured = pace.measured(state.global_step)
                line = {"step": state.global_step, "num_steps": state.max_steps, **logs, **measured}
                curve.write(json.dumps(line))

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            curve.close()

    return CurveWriter()


def _stopper(examples: Sequence[TrainingExample]) -> Any:
    from transformers import TrainerCallback

    class Stopper(TrainerCallback):
        """Raises RunStopped, naming the rows of the step, when its loss is no number; all workers see the same loss."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
            if logs and not math.isfinite(logs.get("loss", 0.0)):
                batch = len(examples) // state.max_steps
                step = examples[(state.global_step - 1) * batch : state.global_step * batch]
                raise RunStopped(lost(state.global_step, logs["loss"], [e.row_id for e in step if e.num_answer]))

    return Stopper()


def lost(step: int, loss: float, rows: Sequence[str]) -> str:
    """What to say of a loss that is no number."""
    return (
        f"the loss of step {step} is {loss}, in the batch of rows {', '.join(rows)}; nothing was saved. Look at these "
        "rows, lower train.learning_rate, or use numerics.train_dtype float32"
    )
