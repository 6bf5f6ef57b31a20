"""How a fine-tuning on Ray Train ends: its outcome, told once, and starts that lead nowhere."""

from pathlib import Path

import pytest

from semievol_ray import storage
from semievol_ray.engines import checkpoints
from semievol_ray.errors import AdapterError, RunStopped
from semievol_ray.stages import trainworker


def test_outcome_is_the_metrics_of_the_first_worker_that_ended(tmp_path: Path) -> None:
    trainworker.end(str(tmp_path), {"metrics": {"train_loss": 0.5}})
    trainworker.end(str(tmp_path), {"error": "RunStopped", "text": "too late"})
    assert trainworker.outcome(str(tmp_path)) == {"train_loss": 0.5}


@pytest.mark.parametrize(("name", "kind"), [("AdapterError", AdapterError), ("KeyError", RunStopped)])
def test_outcome_of_a_failed_fine_tuning_is_raised_as_what_it_was(
    tmp_path: Path, name: str, kind: type[Exception]
) -> None:
    trainworker.end(str(tmp_path), {"error": name, "text": "tensor a is all zero"})
    with pytest.raises(kind, match="tensor a is all zero"):
        trainworker.outcome(str(tmp_path))


def test_third_start_without_a_new_checkpoint_is_the_last_and_says_what_was_seen(tmp_path: Path) -> None:
    folder = str(tmp_path)
    checkpoints.commit(folder, 4, {"identity": {}, "files": {}})
    for _ in range(trainworker.MOST_TRIES):
        trainworker.begin_try(folder)
    storage.append_line(f"{folder}/{trainworker.TRIES_FILE}", '{"failed": "CUDA error: ECC"}')
    with pytest.raises(RunStopped, match=r"ended 3 times after step 4 .*: CUDA error: ECC"):
        trainworker.begin_try(folder)
    checkpoints.commit(folder, 8, {"identity": {}, "files": {}})
    trainworker.begin_try(folder)
