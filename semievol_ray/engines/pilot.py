"""The first step as a pilot: whether the longest that is to come fits too; and what to do where memory ran out.

Invariant: a fine-tuning that cannot end is stopped at its first step, with the sum, rather than at the longest one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from semievol_ray.engines import faults, fit
from semievol_ray.engines.fit import Sizing, gb
from semievol_ray.engines.loss import TrainingExample
from semievol_ray.engines.memory import activations, remedies, with_examples
from semievol_ray.engines.pace import peak_bytes
from semievol_ray.errors import PlacementError

LESS = 0.8
"""Of what was reckoned and did not do: what settings that are proposed may need."""
_LESS_IN_GENERAL = "speed.gradient_checkpointing: true, a smaller speed.per_device_train_batch_size, or a smaller model"


def pilot(sizing: Sizing | None, examples: Sequence[TrainingExample]) -> Any:
    """A callback that looks at this worker's memory after its first step; `examples` stand in order."""
    from transformers import TrainerCallback

    class Pilot(TrainerCallback):
        """Looks once."""

        is_flown = sizing is None

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            if sizing and not self.is_flown:
                self.is_flown = True
                refuse_growth(sizing, examples[: sizing.plan.micro_batch])

    return Pilot()


def refuse_growth(sizing: Sizing, first: Sequence[TrainingExample]) -> None:
    """Raises PlacementError when the longest micro-batch takes more, beyond what the `first` took, than is free."""
    more, free = growth(sizing, first), _left(on_gpu=sizing.on_gpu)
    if more > fit.SHARE * free:
        raise PlacementError(
            f"fine-tuning does not fit: its first step took {gb(peak_bytes(on_gpu=sizing.on_gpu))} of a worker's "
            f"memory, the longest to come takes {gb(more)} more, and {gb(free)} is free. {_ways(sizing)}"
        )


def growth(sizing: Sizing, first: Sequence[TrainingExample]) -> int:
    """Bytes that the longest micro-batch keeps beyond what the one of the `first` examples keeps."""
    begun = with_examples(sizing.plan, fit.lengths_of(first))
    return max(0, activations(sizing.shape, sizing.plan) - activations(sizing.shape, begun))


@contextmanager
def shortage_explained(sizing: Sizing | None) -> Iterator[None]:
    """Within the block memory that runs out is a PlacementError that says what was reckoned and what to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        told = faults.described(error)
        if not (isinstance(error, MemoryError) or faults.shortage(told)):
            raise
        reckoned = f" A worker was reckoned to need {gb(sizing.needed)} ({sizing.told()})." if sizing else ""
        reason = told.splitlines()[0][:200]
        raise PlacementError(f"fine-tuning ran out of memory ({reason}).{reckoned} {_ways(sizing)}") from error


def _ways(sizing: Sizing | None) -> str:
    """Settings that need clearly less than was reckoned."""
    ways: list[str] = []
    if sizing:
        ways = remedies(sizing.shape, sizing.plan, int(LESS * sizing.needed), on_gpu=sizing.on_gpu)
    return f"Less is needed with {'; or '.join(ways) if ways else _LESS_IN_GENERAL}."


def _left(*, on_gpu: bool) -> int:
    """Bytes still free for this worker beyond the most it has held; what PyTorch keeps for reuse is free."""
    if not on_gpu:
        return fit.free_bytes(on_gpu=False)
    import torch

    free, _ = torch.cuda.mem_get_info()
    left: int = free + torch.cuda.memory_reserved() - torch.cuda.max_memory_allocated()
    return left
