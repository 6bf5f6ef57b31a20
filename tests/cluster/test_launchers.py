"""Launch files for `ray up`, SkyPilot and Docker, and the README that leads to them: a stale key or name fails."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml

from semievol_ray.cli import EXIT_INTERRUPTED
from semievol_ray.errors import DeadlineReached

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
README = (CLUSTER / "README.md").read_text(encoding="utf-8")
DOCKERFILE = (CLUSTER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
# of SkyPilot 0.14.1; its package is no dependency of ours
SKY_TASK = {"name", "num_nodes", "workdir", "resources", "file_mounts", "setup", "run", "envs", "secrets", "config"}
SKY_RESOURCES = {
    "infra",
    "accelerators",
    "use_spot",
    "disk_size",
    "image_id",
    "job_recovery",
    "instance_type",
    "labels",
}
SKY_RECOVERY = {"strategy", "max_restarts_on_errors", "recover_on_exit_codes"}


def loaded(name: str) -> Any:
    return yaml.safe_load((CLUSTER / name).read_text(encoding="utf-8"))


def check_ray_up(tree: Any) -> None:
    """Raises jsonschema.ValidationError for what Ray's own schema refuses."""
    schema = Path(ray.autoscaler.__file__).parent / "ray-schema.json"
    jsonschema.validate(tree, json.loads(schema.read_text(encoding="utf-8")))


def stages() -> dict[str, list[tuple[str, str]]]:
    """Stage of the Dockerfile -> its instructions, each with its arguments."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in DOCKERFILE.splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found[rest.split(" AS ")[1]] = []
        if word and not word.startswith("#"):
            list(found.values())[-1].append((word, rest))
    return found


@pytest.mark.parametrize("name", ["ray/aws.yaml", "ray/gcp.yaml"])
def test_ray_up_file_is_one_that_ray_accepts_with_workers_that_go_and_come(name: str) -> None:
    tree = loaded(name)
    check_ray_up(tree)

    types = tree["available_node_types"]
    head = types[tree["head_node_type"]]
    (gpu,) = (kind for key, kind in types.items() if key != tree["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert gpu["resources"]["GPU"] > 0
    assert 0 < gpu["min_workers"] < gpu["max_workers"] <= tree["max_workers"]
    assert re.search(r"spot|preemptible", json.dumps(gpu["node_config"]))


@pytest.mark.parametrize("way", [[], ["docker"], ["available_node_types", "gpu"]])
def test_stale_key_in_a_ray_up_file_is_refused(way: list[str]) -> None:
    tree = loaded("ray/aws.yaml")
    place = tree
    for key in way:
        place = place[key]
    place["stale"] = 1

    with pytest.raises(jsonschema.ValidationError, match="stale"):
        check_ray_up(tree)


def test_google_cloud_image_holds_what_rays_head_and_buckets_need_there() -> None:
    comment = (CLUSTER / "ray/gcp.yaml").read_text(encoding="utf-8").partition("cluster_name")[0]
    (extra,) = re.findall(r'--build-arg EXTRA="(.+)"', comment)
    packages = dict(requirement.split("==") for requirement in extra.split())
    provider = Path(ray.autoscaler.__file__).parent / "_private" / "gcp"
    sources = "".join(path.read_text(encoding="utf-8") for path in provider.glob("*.py"))
    imported = set(re.findall(r"^(?:import|from) (google\w*|httplib2)", sources, re.MULTILINE))

    # google.oauth2 is in the lock files (google-auth); httplib2 comes with either of the other two
    assert imported == {"googleapiclient", "google_auth_httplib2", "httplib2", "google"}
    assert packages.keys() == {"gcsfs", "google-api-python-client", "google-auth-httplib2"}
    for device in ("cpu", "cuda"):
        assert "\ngoogle-auth==" in (ROOT / "requirements" / f"{device}.lock").read_text(encoding="utf-8")


def test_google_cloud_workers_have_an_account_that_reaches_buckets() -> None:
    tree = loaded("ray/gcp.yaml")

    (account,) = tree["available_node_types"]["gpu"]["node_config"]["serviceAccounts"]
    assert account["email"] == f"ray-autoscaler-sa-v1@{tree['provider']['project_id']}.iam.gserviceaccount.com"
    assert account["scopes"] == ["https://www.googleapis.com/auth/devstorage.full_control"]


def test_skypilot_task_is_a_spot_job_with_documented_keys_alone() -> None:
    tree = loaded("skypilot/semievol.yaml")

    assert tree.keys() <= SKY_TASK
    assert tree["resources"].keys() <= SKY_RESOURCES
    assert tree["resources"]["job_recovery"].keys() <= SKY_RECOVERY
    assert tree["resources"]["use_spot"]
    # 0 done, 1 stopped by the data or the machine, 2 something to be changed: another cluster changes none of these
    assert tree["resources"]["job_recovery"]["recover_on_exit_codes"] == [DeadlineReached.exit_code, EXIT_INTERRUPTED]
    assert "max_restarts_on_errors" not in tree["resources"]["job_recovery"]
    assert tree["secrets"] == {"RAY_AUTH_TOKEN": ""}
    subprocess.run(["bash", "-n"], input=tree["run"], text=True, check=True)
    for path in re.findall(r"cluster/[\w./]+", tree["run"]):
        assert (ROOT / path).exists(), path


def test_heads_of_launchers_have_a_dashboard_which_writes_where_prometheus_finds_nodes() -> None:
    scripts = [(CLUSTER / "slurm/node.sh").read_text(encoding="utf-8"), loaded("skypilot/semievol.yaml")["run"]]
    scripts += [" ".join(loaded(name)["head_start_ray_commands"]) for name in ("ray/aws.yaml", "ray/gcp.yaml")]

    for script in scripts:
        assert "--include-dashboard=false" not in script
    for script in scripts[:2]:
        assert "--dashboard-host=127.0.0.1" in script


def test_skypilot_task_without_a_token_starts_no_ray() -> None:
    run = loaded("skypilot/semievol.yaml")["run"]

    done = subprocess.run(
        [shutil.which("bash"), "-c", run],
        env={"PATH": "", "RAY_AUTH_TOKEN": ""}, capture_output=True, text=True, timeout=10,
    )  # fmt: skip

    assert done.returncode not in (0, 75, 130)
    assert "launch with --secret RAY_AUTH_TOKEN" in done.stderr


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_image_is_pinned_by_the_lock_file_of_its_device_and_runs_as_no_root(device: str) -> None:
    instructions = stages()[device]
    run = " ".join(rest for word, rest in instructions if word == "RUN")

    assert instructions[0] == ("FROM", f"base AS {device}")
    assert f"--no-deps -r requirements/{device}.lock" in run
    assert [rest for word, rest in instructions if word == "USER"] == ["1000"]
    assert re.search(r"useradd .*--uid 1000 ", DOCKERFILE)


@pytest.mark.parametrize(("extra", "installed"), [("", []), ("a==1 b==2", ["install --no-cache-dir a==1 b==2"])])
def test_image_takes_a_list_of_more_packages(extra: str, installed: list[str]) -> None:
    lines = [rest for device in ("cpu", "cuda") for word, rest in stages()[device] if word == "RUN" and "EXTRA" in rest]

    for line in lines:
        script = 'pip() { echo "$#: $*"; }; ' + line.partition("&& if")[2].join(("if", ""))
        told = subprocess.run(["bash", "-c", script], env={"EXTRA": extra}, capture_output=True, text=True, check=True)
        assert told.stdout.splitlines() == [f"{len(line.split())}: {line}" for line in installed]
    assert len(lines) == 2


def test_image_copies_what_is_there_and_what_launchers_start() -> None:
    copied = [rest.split()[:-1] for rows in stages().values() for word, rest in rows if word == "COPY"]
    names = {name for sources in copied for name in sources}

    assert all((ROOT / name).exists() for name in names)
    assert {"cluster/start.sh", "cluster/leave.sh", "semievol_ray"} <= names
    assert all(
        rest.startswith("python:3.11") or rest.startswith("base") for rest in re.findall(r"FROM (.*)", DOCKERFILE)
    )


def test_readme_says_of_every_file_what_it_was_last_run_on() -> None:
    table = README.partition("## What each file was last run on")[2].partition("\n## ")[0]
    told = re.findall(r"`([\w./-]+)`", "".join(line.split("|")[1] for line in table.splitlines() if "|" in line))
    files = [p.relative_to(CLUSTER).as_posix() for p in CLUSTER.rglob("*") if p.is_file() and p.suffix != ".pyc"]

    assert [name for name in told if not (CLUSTER / name).exists()] == []
    assert [f for f in files if f != "README.md" and not any(f == t or f.startswith(f"{t}/") for t in told)] == []


def test_readme_commands_name_files_that_are_there() -> None:
    named = re.findall(r"(?:tests/)?cluster/[\w./-]+", README)
    assert named
    assert [name for name in named if not (ROOT / name.rstrip(".")).exists()] == []
