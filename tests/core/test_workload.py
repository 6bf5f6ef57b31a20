"""The rows of each step, against counts done by hand and against what a run really does."""

from pathlib import Path
from typing import Any

import pytest

from semievol_ray.core.workload import Rounds, Splits, num_examples, pool_rows, step_rows
from semievol_ray.runs import read_steps
from tests.rundirs import do_run, run_tree

SPLITS = Splits(labeled=40, pool=200, test=30, dev=12)


def test_pool_of_a_round_loses_what_earlier_rounds_accepted() -> None:
    halving = Rounds(3, 0.5)
    assert [pool_rows(n, SPLITS, halving) for n in (0, 1, 2, 3)] == [200, 200, 100, 50]
    assert [num_examples(n, SPLITS, halving) for n in (0, 1, 2, 3)] == [40, 140, 190, 215]


def test_rounds_that_answer_everything_again_keep_the_pool_and_their_own_examples() -> None:
    again = Rounds(3, 0.5, leaves=False)
    assert [pool_rows(n, SPLITS, again) for n in (1, 2, 3)] == [200, 200, 200]
    assert [num_examples(n, SPLITS, again) for n in (0, 1, 2, 3)] == [40, 140, 140, 140]


@pytest.mark.parametrize(
    ("step", "rows"),
    [
        ("base/evaluate", 30),
        ("rounds/0002/dev/justify", 8),
        ("rounds/0003/dev/drafts/warm_0", 4),
        ("data/near_duplicates", 282),
        ("bases/org-other/train", 40),
        ("rounds/0002/shown", 140),
        ("data/annotations-0000", None),
    ],
)
def test_step_has_the_rows_of_its_split(step: str, rows: int | None) -> None:
    assert step_rows(step, SPLITS, Rounds(3, 0.5)) == rows


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("reanswer", ["rejected", "all"])
def test_rows_of_every_step_are_those_that_a_run_has(reanswer: str, tmp_path: Path) -> None:
    tree: dict[str, Any] = run_tree(tmp_path, labeled=20, unlabeled=64, test=8)
    tree["method"] |= {"rounds": {"num": 2, "reanswer": reanswer}, "select": {"ties": "exact"}}
    tree["data"] |= {"dev": 4, "near_duplicates": {"action": "off"}}
    tree["guard"] = {"min_accepted": 1, "min_answers": 1}
    do_run(tree, tmp_path / "run")

    splits, rounds = Splits(labeled=16, pool=64, test=8, dev=4), Rounds(2, 0.5, leaves=reanswer == "rejected")
    found = {name: r["committed"]["num_rows"] for name, r in read_steps(str(tmp_path / "run")) if r["parts"]}
    assert {name: step_rows(name, splits, rounds) for name in found} == pytest.approx(found, abs=1)
