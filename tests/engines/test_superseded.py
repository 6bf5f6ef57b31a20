"""Workers of a driver that was taken over leave together, and store neither a checkpoint nor an adapter."""

import json
import os
import pickle
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from benchmarks.kill_training_model import NUM_STEPS, SAVE_STEPS, spec_in
from semievol_ray import storage
from semievol_ray.engines import leaving
from semievol_ray.engines.leaving import Leaving, Reason
from semievol_ray.errors import RunInUseError
from semievol_ray.lease import Claim, Holder

CPU = torch.device("cpu")
WORKERS = """
import os, pickle, sys
from pathlib import Path
import deepspeed, peft, torch, transformers
from semievol_ray import storage
from semievol_ray.engines.finetune import Surroundings, finetune
from semievol_ray.errors import RunInUseError

spec, step, taken = pickle.loads(Path(sys.argv[1]).read_bytes())

def work(rank):
    torch.distributed.init_process_group("gloo")
    steps = []

    def took_step():
        steps.append(1)
        if rank == 0 and len(steps) == step:
            storage.create(f"{spec.claim.root}/lease/000002.json", taken)
        return False

    try:
        finetune(spec, Surroundings(num_threads=1, is_machine_leaving=took_step))
    except RunInUseError:
        os._exit(7)
    os._exit(3)

children = []
for rank in range(2):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    children.append(os.fork())
    if not children[-1]:
        work(rank)
ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
sys.exit(0 if ends == [7, 7] else 1)
"""


def _stored(claim: Claim, fence: int, token: str) -> bytes:
    """A holder with this number, as it lies in the run's folder."""
    data = json.dumps(asdict(Holder(fence, "elsewhere", 1, "1", token=token))).encode()
    if fence == claim.fence:
        storage.write(f"{claim.root}/lease/{fence:06d}.json", data)
    return data


@pytest.fixture
def claim(tmp_path: Path) -> Claim:
    """The claim of a driver that has the run now."""
    mine = Claim(str(tmp_path / "run"), 1, "mine")
    _stored(mine, 1, "mine")
    return mine


@pytest.mark.parametrize("step", [SAVE_STEPS - 2, NUM_STEPS])
def test_both_workers_of_a_superseded_driver_leave_and_nothing_of_theirs_is_stored(
    tiny_llama: Path, tmp_path: Path, claim: Claim, step: int
) -> None:
    spec = spec_in(tmp_path / "run", tiny_llama, workers=2, zero_stage=2)
    save_steps = SAVE_STEPS if step < NUM_STEPS else 0
    spec = replace(spec, claim=claim, speed=spec.speed.model_copy(update={"save_steps": save_steps}))
    (tmp_path / "spec").write_bytes(pickle.dumps((spec, step, _stored(claim, 2, "theirs"))))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", WORKERS, str(tmp_path / "spec")],
        env={**os.environ, **ranks, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not storage.sizes(spec.checkpoints)
    assert not storage.sizes(spec.out)


def test_driver_that_was_taken_over_is_seen_before_a_save_at_once_and_else_now_and_then(
    tmp_path: Path, claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Leaving(str(tmp_path), None, lambda: False, claim)
    assert watch.reason(first=True, device=CPU, saves=True) is Reason.NONE
    _stored(replace(claim, fence=2), 2, "theirs")
    assert watch.reason(first=True, device=CPU) is Reason.NONE  # a look is a request in an object store
    assert watch.reason(first=False, device=CPU, saves=True) is Reason.NONE  # the first worker tells all
    assert watch.reason(first=True, device=CPU, saves=True) is Reason.SUPERSEDED
    with pytest.raises(RunInUseError, match="taken over"):
        watch.require_claim(first=True, device=CPU)
    leaving.leave_notice(str(tmp_path))
    assert watch.reason(first=True, device=CPU) is Reason.SUPERSEDED  # what was learned is not to be saved
    leaving.withdraw_notice(str(tmp_path))
    monkeypatch.setattr(leaving, "LOOK_SECONDS", 0.0)
    assert watch.reason(first=True, device=CPU) is Reason.SUPERSEDED
