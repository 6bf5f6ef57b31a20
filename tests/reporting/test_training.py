"""The loss curve of the report: a few means of many steps, on a scale that holds them."""

import json
from pathlib import Path

import pytest

from semievol_ray.reporting.training import MOST_POINTS, loss_axis, thinned
from tests.rundirs import do_run, run_tree
from tests.test_report import read


@pytest.mark.parametrize("num", [1, 200, 201, 5000])
def test_curve_of_any_length_is_few_points_with_the_same_mean(num: int) -> None:
    points = thinned([{"step": i + 1, "loss": 1.0} for i in range(num)])
    assert len(points) <= MOST_POINTS
    assert points[0][0] >= 1
    assert num - num / MOST_POINTS <= points[-1][0] <= num
    assert {loss for _, loss in points} == {1.0}


@pytest.mark.parametrize(
    ("high", "names"),
    [
        (2.3, ["0", "0.5", "1", "1.5", "2", "2.5"]),
        (0.042, ["0", "0.01", "0.02", "0.03", "0.04", "0.05"]),
        (11.0, ["0", "5", "10", "15"]),
        (1.0, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (0.0, ["0", "2e-07"]),
    ],
)
def test_axis_of_losses_has_round_ticks_from_zero_to_above_the_highest(high: float, names: list[str]) -> None:
    axis = loss_axis(high)
    assert [name for _, name in axis.ticks] == names
    assert axis.high >= high


@pytest.mark.usefixtures("without_ray")
def test_loss_curves_are_those_of_the_fine_tunings(tmp_path: Path) -> None:
    root = tmp_path / "run"
    do_run(run_tree(tmp_path, labeled=12, unlabeled=32), root)
    assert "No step of a fine-tuning" in read(root).texts["training"]
    pace = {"tokens_per_second": 1500.0, "memory_bytes": 2.5e9}
    for number, loss in ((0, 2.0), (1, 1.0)):
        lines = [{"step": i + 1, "num_steps": 20, "loss": loss - i / 40, **pace} for i in range(20)]
        again = [{**lines[4], "loss": 9.0}, *lines[5:]]  # went on from step 4: the later line of a step counts
        curve = root / f"rounds/{number:04d}/train/curve.jsonl"
        curve.write_text("".join(json.dumps(line) + "\n" for line in [*lines[:7], *again]))
    page = read(root)
    assert page.table("Fine-tunings")[1:] == [
        ["round 0", "20 of 20", "1.988", "1.538", "1,500", "2.5", "–"],
        ["round 1", "20 of 20", "0.988", "0.538", "1,500", "2.5", "–"],
    ]
    assert sum(tag == "polyline" and found.get("class") == "loss" for tag, found in page.tags) == 2
    assert "20 steps, from 1.000 to 0.525, least 0.525" in page.texts["training"]
