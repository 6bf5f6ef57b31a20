"""A checkpoint is used only when it is whole and of the same fine-tuning; the others are thinned out."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from semievol_ray import storage
from semievol_ray.engines import checkpointfiles, checkpoints
from semievol_ray.engines.checkpointfiles import all_files, learned, put_learned, store, stored
from semievol_ray.engines.checkpoints import Checkpoint
from semievol_ray.errors import ConfigError, RunStopped, StorageError

SAME = {"model": "a" * 64, "train": {"learning_rate": 0.01, "lora_r": 4}, "seed": 0}


def _make(folder: str, step: int, data: bytes = b"learned", *, commits: bool = True) -> None:
    path = checkpoints.path_of(folder, step)
    storage.write(f"{path}/state-00000-00000.safetensors", data)
    if commits:
        files = {"state-00000-00000.safetensors": checkpoints.described(data)}
        checkpoints.commit(folder, step, {"identity": SAME, "files": files})


@pytest.fixture(params=["disk", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder on disk, and one in an object store."""
    return str(tmp_path) if request.param == "disk" else f"{request.getfixturevalue('s3_root')}/checkpoints"


def test_checkpoint_that_was_not_committed_is_not_used(folder: str) -> None:
    assert checkpoints.latest(folder, SAME) is None
    _make(folder, 2)
    _make(folder, 10, commits=False)
    found = checkpoints.latest(folder, SAME)
    assert found is not None
    assert (found.step, checkpoints.committed_steps(folder)) == (2, [2])


@pytest.mark.parametrize("damage", [b"learn", b"LEARNED", None])
def test_damaged_checkpoint_is_removed_and_the_one_before_it_used(folder: str, damage: bytes | None) -> None:
    _make(folder, 2)
    _make(folder, 10)
    path = f"{checkpoints.path_of(folder, 10)}/state-00000-00000.safetensors"
    if damage is None:
        storage.remove(path)
    else:
        storage.write(path, damage)
    found = checkpoints.latest_intact(folder, SAME)
    assert found is not None
    assert found.step == 2


def test_checkpoint_with_a_torn_state_is_not_used(tmp_path: Path) -> None:
    _make(str(tmp_path), 2)
    _make(str(tmp_path), 4)
    state = tmp_path / "checkpoint-4" / checkpoints.STATE_FILE
    state.write_bytes(state.read_bytes()[:50])
    found = checkpoints.latest(str(tmp_path), SAME)
    assert found is not None
    assert found.step == 2


def test_checkpoint_of_another_configuration_and_model_is_refused_naming_both(tmp_path: Path) -> None:
    _make(str(tmp_path), 2)
    other = {"model": "b" * 64, "train": {"learning_rate": 0.1, "lora_r": 4}, "seed": 0}
    with pytest.raises(
        ConfigError, match=r"checkpoint-2 is of another fine-tuning \(model: .*learning_rate: 0.01 there"
    ):
        checkpoints.latest_intact(str(tmp_path), other)
    assert checkpoints.committed_steps(str(tmp_path)) == [2]


def test_file_that_changed_since_it_was_listed_is_refused_when_it_is_read(tmp_path: Path) -> None:
    _make(str(tmp_path), 2)
    found = checkpoints.latest(str(tmp_path), SAME)
    assert found is not None
    (name,) = found.files
    storage.write(f"{found.path}/{name}", b"LEARNED")
    with pytest.raises(StorageError, match="is damaged"):
        checkpoints.read_file(found, name)


def test_thinning_out_keeps_the_last_checkpoints_and_the_best(folder: str) -> None:
    for step in (2, 4, 6, 8, 10):
        _make(folder, step)
    checkpoints.thin_out(folder, 2, best_step=4)
    assert checkpoints.committed_steps(folder) == [10, 8, 4]


def test_checkpoint_with_a_value_that_is_no_number_is_refused() -> None:
    with pytest.raises(RunStopped, match=r"after step 7 a parameter, or its optimizer state, is no number"):
        all_files({}, 7, is_sound=False)


@pytest.fixture
def layer() -> Any:
    import torch

    return torch.nn.Linear(3, 2)


def _stored(folder: str, layer: Any, patch: pytest.MonkeyPatch) -> Checkpoint:
    """The checkpoint of a layer with moments that are its values plus 1 and 2."""
    patch.setattr(
        checkpointfiles,
        "state_of",
        lambda _, model: (
            (name, {"parameter": p, "exp_avg": p + 1, "exp_avg_sq": p + 2}) for name, p in model.named_parameters()
        ),
    )
    files, is_sound = store(checkpoints.path_of(folder, 2), None, layer, 0, 1)
    assert is_sound
    checkpoints.commit(folder, 2, {"identity": SAME, "files": files})
    found = checkpoints.latest(folder, SAME)
    assert found is not None
    return found


def test_parameters_are_read_without_the_moments(folder: str, layer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    found = _stored(folder, layer, monkeypatch)
    moments, parameters = sorted(found.files)
    assert (moments.startswith("moments"), parameters.startswith("parameters")) == (True, True)
    storage.remove(f"{found.path}/{moments}")
    assert all(torch.equal(value, dict(layer.named_parameters())[name]) for name, value in learned(found).items())
    other = torch.nn.Linear(3, 2)
    put_learned(other, found)
    assert torch.equal(other.weight, layer.weight)
    with pytest.raises(StorageError):
        list(stored(found))


def test_checkpoint_whose_files_hold_parameters_and_moments_together_is_read_too(tmp_path: Path, layer: Any) -> None:
    import torch
    from safetensors.torch import save

    data = save({f"{kind}/weight": layer.weight.detach().clone() for kind in ("parameter", "exp_avg", "exp_avg_sq")})
    _make(str(tmp_path), 2, data)
    found = checkpoints.latest(str(tmp_path), SAME)
    assert found is not None
    assert torch.equal(learned(found)["weight"], layer.weight)
    assert [sorted(values["weight"]) for values in stored(found)] == [["exp_avg", "exp_avg_sq", "parameter"]]


@pytest.mark.parametrize("rank", [0, 1])
def test_of_a_model_that_is_cut_up_the_first_worker_alone_reads(
    rank: int, tmp_path: Path, layer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def broadcast(held: list[Any]) -> None:
        held[0] = ["bias", "weight"]

    found, other, read = _stored(str(tmp_path), layer, monkeypatch), torch.nn.Linear(3, 2), list[str]()
    before, read_file = other.weight.detach().clone(), checkpoints.read_file
    for parameter in other.parameters():
        parameter.ds_id = 1  # type: ignore[attr-defined]  # as ZeRO-3 marks them
    monkeypatch.setattr("semievol_ray.engines.trainingstate.whole", lambda *_, **__: nullcontext())
    monkeypatch.setattr(checkpoints, "read_file", lambda *given: (read.append(given[1]), read_file(*given))[1])
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    monkeypatch.setattr(torch.distributed, "broadcast_object_list", broadcast)
    put_learned(other, found)
    assert (len(read), torch.equal(other.weight, before)) == ((1, False) if rank == 0 else (0, True))
