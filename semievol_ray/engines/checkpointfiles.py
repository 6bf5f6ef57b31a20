"""The tensors of a checkpoint, as workers store and read them: safetensors alone, each parameter whole and in float32.

Invariant: nothing is unpickled that was read from storage, and nothing is put into a model whose sha256 did not hold.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from semievol_ray import storage
from semievol_ray.engines import checkpoints
from semievol_ray.engines.checkpoints import Checkpoint
from semievol_ray.engines.trainingstate import PARAMETER, put_parameters, state_of
from semievol_ray.errors import RunStopped, SemievolError

FILE_BYTES = 512 * 2**20
"""About as large a file of a checkpoint becomes; a worker holds one in memory at a time."""


def agreed_checkpoint(folder: str, identity: Mapping[str, Any]) -> Checkpoint | None:
    """The last whole checkpoint, as the first worker finds it; all workers call it at once."""
    import torch

    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return checkpoints.latest_intact(folder, identity)
    found: list[Any] = [None]
    if torch.distributed.get_rank() == 0:
        try:
            found = [checkpoints.latest_intact(folder, identity)]
        except SemievolError as error:
            found = [error]
    torch.distributed.broadcast_object_list(found)
    if isinstance(found[0], SemievolError):
        raise found[0]
    return found[0] if isinstance(found[0], Checkpoint) else None


def stored(checkpoint: Checkpoint) -> Iterator[dict[str, dict[str, Any]]]:
    """Parameter -> kind -> whole value, of one file of a checkpoint after the other, in the same order in all workers.

    Raises StorageError when a file is damaged.
    """
    from safetensors.torch import load

    for name in sorted(checkpoint.files):
        values: dict[str, dict[str, Any]] = {}
        found = load(checkpoints.read_file(checkpoint, name))
        for key, value in sorted(
            found.items(), key=lambda item: item[0]
        ):  # safetensors' own order is another in each process
            kind, _, parameter = key.partition("/")
            values.setdefault(parameter, {})[kind] = value
        yield values


def put_learned(model: Any, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's parameters into a model that DeepSpeed has not wrapped yet."""
    for values in stored(checkpoint):
        put_parameters(model, {name: kinds[PARAMETER] for name, kinds in values.items()})


def learned(checkpoint: Checkpoint) -> dict[str, Any]:
    """The parameters in a checkpoint, whole and in float32."""
    return {name: kinds[PARAMETER] for values in stored(checkpoint) for name, kinds in values.items()}


def store(path: str, engine: Any, model: Any, rank: int, world: int) -> tuple[dict[str, dict[str, Any]], bool]:
    """Store this worker's share of a checkpoint: every `world`-th parameter; its files, and whether all are numbers."""
    import torch
    from safetensors.torch import save

    files: dict[str, dict[str, Any]] = {}
    held: dict[str, Any] = {}
    is_sound = True

    def write() -> None:
        name, data = f"state-{rank:05d}-{len(files):05d}.safetensors", save(held)
        storage.write(f"{path}/{name}", data)
        files[name] = checkpoints.described(data)
        held.clear()

    for number, (parameter, kinds) in enumerate(state_of(engine, model)):
        if number % world != rank:
            continue
        is_sound &= all(bool(torch.isfinite(value).all()) for value in kinds.values())
        held |= {f"{kind}/{parameter}": value.detach().float().cpu().contiguous() for kind, value in kinds.items()}
        if sum(value.nbytes for value in held.values()) >= FILE_BYTES:
            write()
    if held:
        write()
    return files, is_sound


def all_files(mine: dict[str, dict[str, Any]], step: int, *, is_sound: bool) -> dict[str, dict[str, Any]]:
    """The files of all workers. Raises RunStopped in each of them when a value in any is no number."""
    import torch

    found = [(mine, is_sound)]
    if torch.distributed.is_initialized():
        gathered: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(gathered, (mine, is_sound))
        found = gathered
    if not all(sound for _, sound in found):
        raise RunStopped(
            f"after step {step} a parameter, or its optimizer state, is no number; nothing of it was saved. Lower "
            "train.learning_rate, or use numerics.train_dtype float32"
        )
    return {name: facts for files, _ in found for name, facts in files.items()}
