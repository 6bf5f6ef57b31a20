"""Drafts on a two-node cluster: two actors, each a real vLLM engine on one core, kept busy."""

import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from semievol_ray import configfile
from semievol_ray.progress import Progress
from semievol_ray.runs import Run, read_events
from semievol_ray.stages.answer import Asked, answer, drafts_of
from semievol_ray.stages.context import Context
from semievol_ray.stages.ingest import ingest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

WORDNET = Path(__file__).parent.parent.parent / "benchmarks" / "data" / "wordnet"
MAX_NUM_SEQS = 4


def test_two_nodes_two_engines_both_commit_and_never_drain(tmp_path: Path, smollm2: str) -> None:
    described = {
        "name": "two-nodes",
        "task": "wordnet",
        "data": {
            "labeled": {"path": str(WORDNET / "labeled.csv"), "sample": 8},
            "unlabeled": {"path": str(WORDNET / "unlabeled.csv"), "sample": 96},
        },
        "model": smollm2,
        "method": {
            "embedder": "hash",
            "collaborators": [{"demonstrations": 0}, {"name": "again", "demonstrations": 0}],
        },
        "numerics": {"max_model_len": 512},
        "speed": {"part_rows": 8, "num_replicas": 2, "engine_kwargs": {"max_num_seqs": MAX_NUM_SEQS}},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(described), encoding="utf-8")
    root = tmp_path / "run"
    apart = subprocess.run(
        [sys.executable, __file__, str(path), str(root)], check=False
    )  # this process may be in a Ray
    assert apart.returncode == 0
    events = read_events(str(root))
    reports = [event for event in events if event["kind"] == "part_committed"]
    assert len({report["node"] for report in reports}) == 2
    by_replica: dict[str, list[float]] = {}
    for report in reports:
        by_replica.setdefault(report["replica"], []).append(report["median_outstanding"])
    assert len(by_replica) == 2
    for outstanding in by_replica.values():
        assert statistics.median(outstanding) >= 2 * MAX_NUM_SEQS
    stats = next(event["stats"] for event in events if event["kind"] == "session_ended")
    assert "EngineWorker" in stats


def draft_on_two_nodes(path: str, root: str) -> None:
    """The drafts of a configuration's pool, on a cluster of two nodes that is there for them alone."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address)
        ray.data.DataContext.get_current().wait_for_min_actors_s = 300  # else the first engine up may do it all
        config = configfile.load(path)
        with ExitStack() as closing, Run.open(root, {"name": "two-nodes"}) as run:
            context = Context(run, config, Progress(quiet=True), closing)
            data = ingest(run, config, context.task)
            fold = Asked("rounds/0001", data.pool.rows, data.labeled, None)
            answer(context, "drafts", drafts_of(context, fold, None))
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    draft_on_two_nodes(*sys.argv[1:])
