"""A pool whose range leaves room grows onto a machine that joins while it answers, and the next pool counts it in."""

import logging
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from io import StringIO
from pathlib import Path

import pytest
import yaml

from semievol_ray import configfile
from semievol_ray.progress import Progress
from semievol_ray.runs import Run, read_events
from semievol_ray.stages.answer import Asked, answer, drafts_of
from semievol_ray.stages.context import Context
from semievol_ray.stages.ingest import ingest
from tests.rundirs import run_tree

TREE = Path(__file__).parent.parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # Ray looks at the cluster each 20 s


def test_pool_grows_onto_a_machine_that_joins_and_the_next_counts_it_in(tmp_path: Path) -> None:
    tree = run_tree(tmp_path, labeled=8, unlabeled=120)
    tree["method"] |= {"collaborators": [{"demonstrations": 0}]}
    slow = {"max_num_seqs": 1, "seconds_per_request": 1.5}
    tree["speed"] = {"part_rows": 2, "num_replicas": {"min": 1, "max": 2}, "engine_kwargs": slow}
    path, root = tmp_path / "growing.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    command = [sys.executable, "-m", "tests.stages.test_growing", str(path), str(root)]
    apart = subprocess.run(command, check=False, timeout=270, cwd=TREE)  # this process may be in a Ray
    assert apart.returncode == 0
    parts = [event for event in read_events(str(root)) if event["kind"] == "part_committed"]
    nodes = {event["node"] for event in parts if event["step"].startswith("rounds/0001/")}
    assert len(nodes) == 2
    said = (tmp_path / "said").read_text(encoding="utf-8")
    assert "first base: 1 x 1 CPU, 1 of 1 CPUs" in said
    assert "second base: 2 x 1 CPU, 2 of 2 CPUs" in said


def grow(path: str, root: str) -> None:
    """Two rounds' drafts on a cluster of one machine, which a second joins after the first part."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})

    said, failed = StringIO(), list[BaseException]()

    def draft() -> None:
        try:
            with ExitStack() as closing, Run.open(root, {"name": "growing"}) as run:
                context = Context(run, configfile.load(path), Progress(said), closing)
                data = ingest(run, context.config, context.task)
                for number, name in enumerate(("first", "second"), 1):
                    fold = Asked(f"rounds/{number:04d}", data.pool.rows, data.labeled, None)
                    answer(context, name, drafts_of(context, fold, None))
        except BaseException as error:
            failed.append(error)

    drafting = threading.Thread(target=draft)
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        drafting.start()
        while drafting.is_alive() and not any(e["kind"] == "part_committed" for e in read_events(root)):
            time.sleep(0.2)
        cluster.add_node(num_cpus=1)  # Ray does this in a main thread only
        drafting.join()
    finally:
        ray.shutdown()
        cluster.shutdown()
    if failed:
        raise failed[0]
    Path(root).with_name("said").write_text(said.getvalue(), encoding="utf-8")


if __name__ == "__main__":
    grow(*sys.argv[1:])
