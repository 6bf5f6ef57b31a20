"""The manifests for KubeRay: valid, without keys that Kubernetes would drop in silence, and fit for spot machines."""

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import crds
import pytest
import yaml
from kustomized import Tree, built, patched

from semievol_ray import configfile
from semievol_ray.stages.patience import Patience

KUBERNETES = Path(__file__).resolve().parents[2] / "cluster" / "kubernetes"
FOLDERS = ("base", "overlays/one-node", "overlays/many-nodes", "serve")
WORKER = "spec/rayClusterSpec/workerGroupSpecs/0"
SECRETS = ("password", "secret", "token", "key_id", "credential")


def named(trees: list[Tree], kind: str) -> Tree:
    (found,) = (tree for tree in trees if tree["kind"] == kind)
    return found


def cluster_spec(folder: str) -> Tree:
    """The Ray cluster that a folder describes."""
    trees = built(KUBERNETES / folder)
    if folder == "serve":
        return dict(named(trees, "RayService")["spec"]["rayClusterConfig"])
    return dict(named(trees, "RayJob")["spec"]["rayClusterSpec"])


def pods(spec: Tree) -> list[Tree]:
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def leaves(tree: Any, way: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else None
    if pairs is None:
        yield way, tree
        return
    for key, value in pairs:
        yield from leaves(value, (*way, str(key)))


@pytest.mark.parametrize("folder", FOLDERS[:3])
def test_job_has_only_keys_that_kuberay_knows(folder: str) -> None:
    job = named(built(KUBERNETES / folder), "RayJob")
    assert crds.errors(job, crds.schema("rayjobs")) == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_cluster_has_only_keys_that_kuberay_knows(folder: str) -> None:
    whole = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {}, "spec": cluster_spec(folder)}
    assert crds.errors(whole, crds.schema("rayclusters")) == []


@pytest.mark.parametrize(
    "way",
    ["spec", "spec/submitterConfig", "spec/rayClusterSpec", f"{WORKER}/template/spec/containers/0"],
)
def test_stale_key_anywhere_in_a_job_is_refused(way: str) -> None:
    job = patched(
        named(built(KUBERNETES / "base"), "RayJob"), [{"op": "add", "path": f"/{way}/backoffLimits", "value": 1}]
    )
    (error,) = crds.errors(job, crds.schema("rayjobs"))
    assert "backoffLimits" in error


def test_service_has_only_keys_of_its_own_besides_the_cluster() -> None:
    spec = named(built(KUBERNETES / "serve"), "RayService")["spec"]
    thresholds = {"serviceUnhealthySecondThreshold", "deploymentUnhealthySecondThreshold"}
    # KubeRay's definition of RayService is not at hand: these are the documented ones
    assert set(spec) == {"serveConfigV2", "rayClusterConfig", *thresholds}


ACCEPTED = """
import json, sys
from ray.llm._internal.serve.core.configs.llm_config import LLMConfig
from ray.serve.schema import ServeDeploySchema
said = json.load(sys.stdin)
ServeDeploySchema.model_validate(said)
LLMConfig.model_validate(said["applications"][0]["args"]["llm_configs"][0])
"""


def test_serve_config_is_one_that_ray_serve_accepts() -> None:
    said = yaml.safe_load(named(built(KUBERNETES / "serve"), "RayService")["spec"]["serveConfigV2"])
    assert _is_accepted(said) == ""
    said["applications"][0]["args"]["llm_configs"][0]["stale_key"] = 1
    assert "stale_key" in _is_accepted(said)


def _is_accepted(said: Tree) -> str:
    """The error of Ray's models, empty where there is none; in its own process, for ray.llm changes all loggers."""
    command = [sys.executable, "-c", ACCEPTED]
    done = subprocess.run(command, input=json.dumps(said), capture_output=True, text=True, timeout=120, check=False)
    return done.stderr if done.returncode else ""


@pytest.mark.parametrize("folder", FOLDERS)
def test_folder_builds_as_kubectl_builds_it(folder: str) -> None:
    ours = built(KUBERNETES / folder)
    assert ours
    if kubectl := shutil.which("kubectl"):
        done = subprocess.run(
            [kubectl, "kustomize", str(KUBERNETES / folder)], capture_output=True, text=True, check=True, timeout=60
        )
        assert _sorted(yaml.safe_load_all(done.stdout)) == _sorted(ours)


def _sorted(trees: Any) -> list[str]:
    return sorted(json.dumps(tree, sort_keys=True) for tree in trees)


@pytest.mark.parametrize("folder", FOLDERS)
def test_pods_leave_engines_their_grace_and_run_as_no_root(folder: str) -> None:
    head, *workers = pods(cluster_spec(folder))
    for pod in (head, *workers):
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["terminationGracePeriodSeconds"] >= Patience().grace_seconds + 2 + 10 + 5  # engines, stop, drain
    for pod in workers:
        assert pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"] == ["/opt/semievol/leave.sh"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_secrets_are_named_and_never_written(folder: str) -> None:
    for tree in built(KUBERNETES / folder):
        assert tree["kind"] != "Secret"
        for way, value in leaves(tree):
            if any(word in way[-1].lower() for word in SECRETS):
                assert "secretKeyRef" in way or "secretRef" in way, f"{way}: {value}"
        for pod in pods(cluster_spec(folder)):
            for variable in pod["containers"][0].get("env", ()):
                assert "value" not in variable or not any(w in variable["name"].lower() for w in SECRETS)


@pytest.mark.parametrize("folder", FOLDERS)
def test_pods_of_others_are_kept_out_by_a_token(folder: str) -> None:
    assert cluster_spec(folder)["authOptions"] == {"mode": "token"}


def test_mounts_name_volumes_that_are_there() -> None:
    for folder in FOLDERS:
        for pod in pods(cluster_spec(folder)):
            mounted = {mount["name"] for mount in pod["containers"][0].get("volumeMounts", ())}
            assert mounted == {volume["name"] for volume in pod.get("volumes", ())}, folder


def test_many_nodes_grow_on_spot_machines_and_one_node_does_not() -> None:
    many, one = cluster_spec("overlays/many-nodes"), cluster_spec("overlays/one-node")
    (group,) = many["workerGroupSpecs"]
    assert many["enableInTreeAutoscaling"]
    assert group["minReplicas"] < group["maxReplicas"]
    assert "cloud.google.com/gke-spot" in {t["key"] for t in group["template"]["spec"]["tolerations"]}
    assert not one["enableInTreeAutoscaling"]
    assert {g["maxReplicas"] for g in one["workerGroupSpecs"]} == {1}


def test_service_keeps_its_state_outside_of_the_head() -> None:
    assert "secretKeyRef" in cluster_spec("serve")["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]


@pytest.mark.parametrize("folder", FOLDERS[:3])
def test_job_that_fails_of_a_mistake_buys_one_more_cluster_at_most(folder: str) -> None:
    assert named(built(KUBERNETES / folder), "RayJob")["spec"]["backoffLimit"] <= 1


@pytest.mark.parametrize("folder", FOLDERS[:3])
def test_job_runs_the_configuration_that_it_mounts(folder: str) -> None:
    trees = built(KUBERNETES / folder)
    job, config_map = named(trees, "RayJob"), named(trees, "ConfigMap")
    command, config, run = job["spec"]["entrypoint"].split()
    (volume,) = (v for v in pods(cluster_spec(folder))[0]["volumes"] if v["name"] == "run")

    assert command == "/opt/semievol/start.sh"
    assert Path(config).name in config_map["data"]
    assert volume["configMap"]["name"] == config_map["metadata"]["name"]
    assert run.startswith("/runs/" if folder == "overlays/one-node" else "s3://")
    configfile.parse(yaml.safe_load(config_map["data"][Path(config).name]), config)


def test_patch_changes_a_copy_and_refuses_a_path_that_is_not_there() -> None:
    tree = {"a": [{"b": 1}]}
    before = copy.deepcopy(tree)

    assert patched(tree, [{"op": "add", "path": "/a/-", "value": 2}]) == {"a": [{"b": 1}, 2]}
    assert tree == before
    with pytest.raises(KeyError):
        patched(tree, [{"op": "replace", "path": "/a/0/stale", "value": 2}])
