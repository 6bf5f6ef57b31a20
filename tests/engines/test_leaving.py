"""A fine-tuning leaves in time: before its deadline, at a notice, with the machine."""

import time
from pathlib import Path

import pytest
import torch

from semievol_ray.engines import leaving
from semievol_ray.engines.leaving import Leaving, Reason

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("seconds", "reason"), [(3600.0, Reason.NONE), (5.0, Reason.DEADLINE), (-5.0, Reason.DEADLINE)]
)
def test_deadline_is_met_while_there_is_time_to_save(tmp_path: Path, seconds: float, reason: Reason) -> None:
    assert Leaving(str(tmp_path), time.time() + seconds, lambda: False).reason(first=True, device=CPU) is reason


def test_deadline_is_met_earlier_the_longer_a_checkpoint_takes(tmp_path: Path) -> None:
    watch = Leaving(str(tmp_path), time.time() + 60, lambda: False)
    assert watch.reason(first=True, device=CPU) is Reason.NONE
    watch.save_seconds = 60.0
    assert watch.reason(first=True, device=CPU) is Reason.DEADLINE


def test_notice_holds_until_it_is_withdrawn(tmp_path: Path) -> None:
    watch = Leaving(str(tmp_path), None, lambda: False)
    leaving.leave_notice(str(tmp_path))
    assert watch.reason(first=True, device=CPU) is Reason.NOTICE
    leaving.withdraw_notice(str(tmp_path))
    assert watch.reason(first=True, device=CPU) is Reason.NONE


def test_any_worker_knows_that_its_own_machine_goes_away(tmp_path: Path) -> None:
    assert Leaving(str(tmp_path), None, lambda: True).reason(first=False, device=CPU) is Reason.MACHINE
