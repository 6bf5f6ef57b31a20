"""Models on two nodes, each with a cache of its own: what one of them holds the other does not see."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import hubserver
from tests.hubserver import NAME

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_each_node_fetches_the_model_of_the_hub_into_its_own_cache_and_names_a_folder_that_it_lacks(
    tmp_path: Path,
) -> None:
    with hubserver.running() as hub:
        environment = {**os.environ, **own(tmp_path / "driver"), "HF_ENDPOINT": hub.url, "NO_PROXY": "*"}
        environment["PYTHONPATH"] = str(ROOT)
        apart = subprocess.run(  # this process may be in a Ray
            [sys.executable, __file__, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
        )
    assert apart.returncode == 0, apart.stderr
    told = json.loads(apart.stdout.splitlines()[-1])
    assert len(told) == 2
    for node, faults in told.items():
        assert len(faults) == 1, node
        assert "the model's folder /no/such/model is not there" in faults[0]
    assert hub.fetched.count("model.safetensors") == 3
    for folder in ("driver", "a", "b"):
        assert [path.name for path in (tmp_path / folder).rglob("model.safetensors")] == ["model.safetensors"]


def own(folder: Path) -> dict[str, str]:
    """The variables of a machine whose caches lie in a folder."""
    return {"HF_HOME": str(folder / "hf"), "SEMIEVOL_CACHE": str(folder / "cache")}


def ask_two_nodes(folder: Path) -> None:
    """Prints what two nodes tell of a model of the hub and of a folder that is nowhere."""
    import ray
    from ray.cluster_utils import Cluster

    from semievol_ray.engines.models import resolve_model
    from semievol_ray.stages.nodes import _names, models_held

    models = {resolve_model(NAME).reference: {}, "/no/such/model": {"config.json": 2}}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "env_vars": own(folder / "a")})
    try:
        cluster.add_node(num_cpus=1, env_vars=own(folder / "b"))
        ray.init(address=cluster.address)
        names = _names(ray.nodes()).values()
        print(json.dumps({node: one.value for node, one in models_held(models, names, 60.0).items()}))
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    ask_two_nodes(Path(sys.argv[1]))
