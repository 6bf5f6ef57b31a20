"""transformers' Trainer with the loss of this project, its start from a checkpoint, and its loss curve as a file.

Invariant: a loss that is no number ends the fine-tuning in every worker at the same step, before anything is saved.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from semievol_ray.engines.loss import TrainingExample, answer_loss, collate, pack
from semievol_ray.engines.pace import Pace
from semievol_ray.engines.packing import refuse_mixing
from semievol_ray.errors import RunStopped
from semievol_ray.events import LineLog


@dataclass(frozen=True)
class Course:
    """How a training goes besides its loss. `done`: steps that lie behind it; their examples are passed over.

    begun(trainer): called once DeepSpeed has the model, before the first step; stepped(trainer): after every step that
    was sound. Each step's dropout depends on seed, step and worker alone, so that it is the same after a new start.
    """

    done: int = 0
    begun: Callable[[Any], None] = lambda _: None
    stepped: Callable[[Any], None] = lambda _: None


def answer_trainer(
    *,
    model: Any,
    arguments: Any,
    examples: Sequence[TrainingExample],
    packing: bool,
    callbacks: Sequence[Any],
    course: Course | None = None,
) -> Any:
    """A Trainer that takes the examples in the order given; its loss is `answer_loss` over the global batch."""
    way = course or Course()
    left = examples[way.done * (len(examples) // arguments.max_steps) :]
    trainer = _trainer_class(examples, left, way, packing=packing)(
        model=model,
        args=arguments,
        train_dataset=left,
        data_collator=pack if packing else lambda rows: collate(rows, pad=0),
        callbacks=[*callbacks, _stopper(examples), _reseeder()],
    )
    trainer.model_accepts_loss_kwargs = True  # else the Trainer counts no tokens for models that take none themselves
    return trainer


def _trainer_class(
    examples: Sequence[TrainingExample], left: Sequence[TrainingExample], way: Course, *, packing: bool
) -> Any:
    """transformers' Trainer as this project needs it; `left` are the examples that are still to be learned from."""
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
            return SequentialSampler(train_dataset or left)

        def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
            super()._init_training_state(*args, **kwargs)
            self.state.global_step = way.done
            return 0, 0

        def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
            prepared = super()._prepare_for_training(*args, **kwargs)  # type: ignore[no-untyped-call]
            way.begun(self)
            return prepared

        def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
            is_new = self.state.global_step > self._globalstep_last_logged
            super()._maybe_log_save_evaluate(*args, **kwargs)
            if is_new:
                way.stepped(self)

    return AnswerTrainer


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


def _reseeder() -> Any:
    import torch
    from transformers import TrainerCallback

    class Reseeder(TrainerCallback):
        """Makes each step's random numbers its own."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            torch.manual_seed(hash((args.seed, state.global_step, args.process_index)) % 2**63)

    return Reseeder()


def _stopper(examples: Sequence[TrainingExample]) -> Any:
    from transformers import TrainerCallback

    class Stopper(TrainerCallback):
        """Raises RunStopped, naming the rows of the step, when its loss is no number; all workers see the same.

        Nor may a gradient be none, but in float16, which leaves such a step out.
        """

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
            for name in ("loss",) if args.fp16 else ("loss", "grad_norm"):
                if logs and not math.isfinite(value := logs.get(name, 0.0)):
                    batch = len(examples) // state.max_steps
                    step = examples[(state.global_step - 1) * batch : state.global_step * batch]
                    rows = [e.row_id for e in step if e.num_answer]
                    raise RunStopped(lost(state.global_step, name.replace("grad_norm", "gradient"), value, rows))

    return Stopper()


def lost(step: int, what: str, value: float, rows: Sequence[str]) -> str:
    """What to say of a loss, or gradient, that is no number."""
    return (
        f"the {what} of step {step} is {value}, in the batch of rows {', '.join(rows)}; nothing of it was saved. Look "
        "at these rows, lower train.learning_rate, or use numerics.train_dtype float32"
    )


def is_overflow(error: BaseException) -> bool:
    """Whether DeepSpeed gave up because float16 overflows even with the smallest loss scale."""
    return "loss scale already at minimum" in str(error)


def overflowed(step: int) -> str:
    """What to say when float16 overflows however small its loss scale becomes."""
    return (
        f"float16 overflowed in every step up to {step + 1}, down to the smallest loss scale, so that nothing is "
        "learned. Use numerics.train_dtype bfloat16 (or float32), or a lower train.learning_rate"
    )
