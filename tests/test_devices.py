"""A run that was begun on GPUs and goes on where there are none."""

import json
from pathlib import Path

import pytest

from semievol_ray.errors import PlacementError
from tests.rundirs import do_run, run_tree


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("name", ["rounds/0001/justify", "rounds/0001/train"])
def test_step_begun_on_gpus_is_not_continued_without(name: str, tmp_path: Path) -> None:
    tree, root = run_tree(tmp_path, labeled=20, unlabeled=32), tmp_path / "run"
    do_run(tree, root)
    path = root / name / "step.json"
    record = json.loads(path.read_text())
    del record["committed"]
    record["numerics"]["device"] = "gpu"
    path.write_text(json.dumps(record))
    for part in sorted((root / name).glob("part-*"))[1:]:
        part.unlink()

    with pytest.raises(PlacementError, match=rf"{name} was begun on GPUs, and the cluster has none now.*--address"):
        do_run(tree, root)
