"""Computed times against bounds done by hand."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol_ray.core.roofline import (
    DECODE_SHARE,
    GPUS,
    PREFILL_SHARE,
    Shape,
    batch_size,
    gpu_named,
    row_seconds,
    training_step_seconds,
)

EIGHT_BILLION = Shape(8e9, 2, 131072)  # 32 layers, 8 heads of 128 for keys and values, two bytes each


def test_one_row_alone_waits_for_the_weights_of_each_token() -> None:
    device = GPUS["H100"]
    expected = 2 * 8e9 * 100 / (device.flops * PREFILL_SHARE)
    expected += 50 * (16e9 + 131072 * 125) / (device.bandwidth * DECODE_SHARE)
    assert row_seconds(EIGHT_BILLION, device, 100, 50, 1) == pytest.approx(expected)


def test_batch_is_what_keys_and_values_find_room_for() -> None:
    assert batch_size(EIGHT_BILLION, GPUS["H100"], 1000, 256) == 256
    assert batch_size(EIGHT_BILLION, GPUS["L4"], 1000, 256) == int((0.9 * 24e9 - 16e9) / 131072e3)
    assert batch_size(EIGHT_BILLION, GPUS["T4"], 1000, 256) == 1  # the weights alone fill it


@given(st.floats(1, 4000), st.floats(1, 500), st.sampled_from(sorted(GPUS)))
def test_larger_batches_never_make_a_row_dearer(prompt: float, tokens: float, name: str) -> None:
    cost = [row_seconds(EIGHT_BILLION, GPUS[name], prompt, tokens, num) for num in (1, 8, 64, 256)]
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in pairwise(cost))


def test_full_fine_tuning_is_half_as_dear_again_as_an_adapter() -> None:
    adapter, full = (training_step_seconds(EIGHT_BILLION, GPUS["H100"], 4096, is_full=f) for f in (False, True))
    assert full == pytest.approx(1.5 * adapter)


@pytest.mark.parametrize(
    ("told", "key"),
    [("NVIDIA A100-SXM4-80GB", "A100"), ("NVIDIA H200", "H200"), ("NVIDIA A10G", "A10"), ("NVIDIA L40S", "L40S"),
     ("Tesla T4", "T4"), ("NVIDIA GeForce RTX 3060", None)],
)  # fmt: skip
def test_gpu_is_known_by_the_name_that_its_driver_gives(told: str, key: str | None) -> None:
    assert gpu_named(told) == (GPUS[key] if key else None)
