"""The tensors of a checkpoint, as workers store and read them: safetensors alone, each parameter whole and in float32.

Invariant: nothing is unpickled that was read from storage, and nothing is put into a model whose sha256 did not hold.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from semievol_ray import storage
from semievol_ray.engines import checkpoints
from semievol_ray.engines.checkpoints import Checkpoint
from semievol_ray.engines.trainingstate import PARAMETER, is_cut_up, put_parameters, state_of
from semievol_ray.errors import RunStopped, SemievolError

FILE_BYTES = 512 * 2**20
"""About as large a file of a checkpoint becomes; a worker holds one of each kind in memory at a time."""
_PREFIX = {True: "parameters", False: "moments"}


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
    for name in sorted(checkpoint.files):
        values: dict[str, dict[str, Any]] = {}
        for key, value in _read(checkpoint, name):
            kind, _, parameter = key.partition("/")
            values.setdefault(parameter, {})[kind] = value
        yield values


def put_learned(model: Any, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's parameters into a model, not into DeepSpeed's copies of them.

    Where ZeRO-3 cut the model up all workers call it at once; the first one's values become everyone's, and it alone
    reads.
    """
    is_cut = is_cut_up(model)
    reads = not is_cut or _is_first()
    for name in _of_parameters(checkpoint):
        values = dict(_parameters(checkpoint, name)) if reads else {}
        put_parameters(model, _named_alike(values) if is_cut else values)


def learned(checkpoint: Checkpoint) -> dict[str, Any]:
    """The parameters in a checkpoint, whole and in float32."""
    return {key: value for name in _of_parameters(checkpoint) for key, value in _parameters(checkpoint, name)}


def _of_parameters(checkpoint: Checkpoint) -> list[str]:
    """Files that hold parameters; those called `state` hold moments too, as all once did."""
    return sorted(name for name in checkpoint.files if not name.startswith(_PREFIX[False]))


def _parameters(checkpoint: Checkpoint, name: str) -> Iterator[tuple[str, Any]]:
    for key, value in _read(checkpoint, name):
        kind, _, parameter = key.partition("/")
        if kind == PARAMETER:
            yield parameter, value


def _read(checkpoint: Checkpoint, name: str) -> list[tuple[str, Any]]:
    """The tensors of a file by name: safetensors' own order is another in each process."""
    from safetensors.torch import load

    return sorted(load(checkpoints.read_file(checkpoint, name)).items(), key=lambda item: item[0])


def _named_alike(values: Mapping[str, Any]) -> dict[str, Any]:
    """The first worker's values; in the others their names alone."""
    import torch

    if not torch.distributed.is_initialized():
        return dict(values)
    names: list[Any] = [list(values)]
    torch.distributed.broadcast_object_list(names)
    return {name: values.get(name) for name in names[0]}


def _is_first() -> bool:
    import torch

    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def store(path: str, engine: Any, model: Any, rank: int, world: int) -> tuple[dict[str, dict[str, Any]], bool]:
    """Store this worker's share of a checkpoint: every `world`-th parameter; its files, and whether all are numbers.

    Parameters and moments lie in files of their own: most readers want the former alone, a third of all bytes.
    """
    import torch
    from safetensors.torch import save

    files: dict[str, dict[str, Any]] = {}
    held: dict[bool, dict[str, Any]] = {True: {}, False: {}}
    is_sound = True

    def write(is_parameter: bool) -> None:
        name = f"{_PREFIX[is_parameter]}-{rank:05d}-{len(files):05d}.safetensors"
        data = save(held[is_parameter])
        storage.write(f"{path}/{name}", data)
        files[name] = checkpoints.described(data)
        held[is_parameter].clear()

    for number, (parameter, kinds) in enumerate(state_of(engine, model)):
        if number % world != rank:
            continue
        is_sound &= all(bool(torch.isfinite(value).all()) for value in kinds.values())
        for kind, value in kinds.items():
            held[kind == PARAMETER][f"{kind}/{parameter}"] = value.detach().float().cpu().contiguous()
        for is_parameter, values in held.items():
            if sum(value.nbytes for value in values.values()) >= FILE_BYTES:
                write(is_parameter)
    for is_parameter in (True, False):
        if held[is_parameter]:
            write(is_parameter)
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
