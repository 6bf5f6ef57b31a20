"""What happens between the steps of a fine-tuning: checkpoints, validations, an early end, leaving before the end.

Invariant: a step's checkpoint is committed after all workers stored their share of it, and only when every value in it
is a number; every worker comes to the same decisions.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from semievol_ray.config import EarlyStoppingConfig
from semievol_ray.engines import checkpoints
from semievol_ray.engines.checkpointfiles import all_files, store, stored
from semievol_ray.engines.checkpoints import Checkpoint
from semievol_ray.engines.leaving import WORDS, Leaving, Reason
from semievol_ray.engines.loss import TrainingExample
from semievol_ray.engines.trainingstate import begin_moments, loss_scale, num_updates, put_loss_scale, put_state
from semievol_ray.engines.validating import Verdict, validation_loss
from semievol_ray.errors import DeadlineReached, RunStopped


class MachineLeavesError(Exception):
    """A worker's machine goes away; the last checkpoint holds all that was learned, for the workers that come next."""


@dataclass(frozen=True)
class Rules:
    """When to save and to validate. folder: of the checkpoints, none are made when it is empty."""

    folder: str
    identity: Mapping[str, Any]
    save_steps: int
    save_total_limit: int
    early_stopping: EarlyStoppingConfig | None
    eval_steps: int
    validation: Sequence[TrainingExample]
    packing: bool


class Keeper:
    """Keeps one worker's fine-tuning, from its beginning or a checkpoint to its end."""

    def __init__(
        self, rules: Rules, resumed: Checkpoint | None, leaving: Leaving, on_saved: Callable[[str, int], None]
    ) -> None:
        self._rules, self.resumed, self._leaving, self._on_saved = rules, resumed, leaving, on_saved
        record = resumed.record if resumed else {}
        self.verdict = Verdict(**record["verdict"]) if "verdict" in record else Verdict()
        self.loss_sum = float(record.get("loss_sum", 0.0))
        self._saved_step = resumed.step if resumed else 0

    @property
    def best(self) -> Checkpoint | None:
        """The checkpoint with the lowest validation loss; None where nothing was validated."""
        folder, step = self._rules.folder, self.verdict.best_step
        return checkpoints.at(folder, step) if folder and step else None

    def begun(self, trainer: Any) -> None:
        """Put what the checkpoint holds into DeepSpeed, which has just wrapped the model."""
        if self.resumed is None:
            return
        engine, record = trainer.model_wrapped, self.resumed.record
        begin_moments(engine, record["num_updates"])
        for values in stored(self.resumed):
            put_state(engine, trainer.model, values)
        put_loss_scale(engine, record["loss_scale"])
        trainer.lr_scheduler.last_epoch = record["schedule_step"] - 1
        trainer.lr_scheduler.step()

    def stepped(self, trainer: Any) -> None:
        """After a step: validate, save and stop where it is time to.

        Raises RunStopped, MachineLeavesError to leave, RunInUseError when another driver has the run.
        """
        step, rules = trainer.state.global_step, self._rules
        self.loss_sum += next(line["loss"] for line in reversed(trainer.state.log_history) if "loss" in line)
        is_better = self._validate(trainer) if rules.early_stopping and step % rules.eval_steps == 0 else False
        is_over = bool(rules.early_stopping and self.verdict.is_over(rules.early_stopping))
        reason = Reason.NONE
        if rules.folder:
            is_due = bool(rules.save_steps) and step % rules.save_steps == 0 and step < trainer.state.max_steps
            saves, first = is_due or is_better or is_over, trainer.args.process_index == 0
            reason = self._leaving.reason(first=first, device=trainer.args.device, saves=saves)
            if reason is Reason.SUPERSEDED:
                raise self._leaving.superseded()
            if saves or reason is not Reason.NONE:
                self._save(trainer)
        trainer.control.should_training_stop |= is_over
        if reason is not Reason.NONE and not trainer.control.should_training_stop:
            _leave(reason, step, trainer.state.max_steps)

    def require_claim(self, arguments: Any) -> None:
        """RunInUseError in all workers when another driver has the run: what was learned is not for it."""
        self._leaving.require_claim(first=arguments.process_index == 0, device=arguments.device)

    def _validate(self, trainer: Any) -> bool:
        """Whether the loss on the rows that are not learned from is the lowest so far."""
        rules, args = self._rules, trainer.args
        assert rules.early_stopping is not None
        loss = validation_loss(
            trainer.model_wrapped, rules.validation, args.per_device_train_batch_size, packing=rules.packing,
            rank=args.process_index, world=args.world_size, device=args.device,
        )  # fmt: skip
        step = int(trainer.state.global_step)
        self.verdict = self.verdict.after(step, loss, rules.early_stopping)
        return self.verdict.best_step == step

    def _save(self, trainer: Any) -> None:
        began, step, folder = time.monotonic(), trainer.state.global_step, self._rules.folder
        if step == self._saved_step:
            return
        path = checkpoints.path_of(folder, step)
        rank, engine = trainer.args.process_index, trainer.model_wrapped
        listed = {
            "identity": dict(self._rules.identity), "max_steps": trainer.state.max_steps, "num_updates": 0,
            "schedule_step": trainer.lr_scheduler.last_epoch, "loss_scale": loss_scale(engine),
            "loss_sum": self.loss_sum, "verdict": _plain(self.verdict),
        }  # fmt: skip
        mine, is_sound = store(path, engine, trainer.model, rank, trainer.args.world_size)
        files = all_files(mine, step, is_sound=is_sound)
        if rank == 0 and not self._leaving.is_lost():  # else what was stored is nobody's; all leave after the next step
            listed |= {"num_updates": num_updates(engine), "files": files}
            checkpoints.commit(folder, step, listed)
            checkpoints.thin_out(folder, self._rules.save_total_limit, self.verdict.best_step)
        _wait_for_all()
        self._saved_step = step
        self._leaving.save_seconds = max(self._leaving.save_seconds, 2 * (time.monotonic() - began))
        self._on_saved(path, step)


def _wait_for_all() -> None:
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def _plain(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON has it: without a best there is no infinite one."""
    return asdict(verdict) if math.isfinite(verdict.best_loss) else {"num_since": verdict.num_since, "num": verdict.num}


def _leave(reason: Reason, step: int, num_steps: int) -> None:
    if reason is Reason.MACHINE:
        raise MachineLeavesError(f"after step {step}")
    kind = DeadlineReached if reason is Reason.DEADLINE else RunStopped
    raise kind(
        f"the fine-tuning stopped after step {step} of {num_steps}, for {WORDS[reason]}. That step is saved: the same "
        "command goes on from it"
    )
