"""Comparisons of nodes, on reports made up here."""

from dataclasses import replace

import pytest

from semievol_ray.machine import SOURCE, Disk, Gpu, Machine
from semievol_ray.problems import Gravity, Kind, Problem, machine_problems
from semievol_ray.stages.nodes import DRIVER, NodeReport

ROOT = "/shared/run"
GB = 10**9
VERSIONS: dict[str, str | None] = {
    "python": "3.11.7", "semievol-ray": "0.1.0", SOURCE: "aaaa", "ray": "2.60.0", "torch": "2.13.0", "vllm": "0.32.0",
    "transformers": "5.19.0", "peft": "0.21.2", "deepspeed": "0.19.8", "NCCL": "2.27", "faiss": "1.15",
}  # fmt: skip
MACHINE = Machine(
    host="h", versions=VERSIONS, gpus=(), driver=None, cuda=None, num_cpus=8, memory_bytes=64 * GB,
    free_memory_bytes=50 * GB, shared_memory_bytes=30 * GB, open_files=(65536, 65536),
    disks=(Disk("/tmp", 100 * GB, 500 * GB), Disk(ROOT, 100 * GB, 500 * GB)),
)  # fmt: skip


def node(name: str, *, cpus: float = 8, gpus: float = 0, machine: Machine = MACHINE, **told: object) -> NodeReport:
    return NodeReport(name, cpus, gpus, machine, **told)  # type: ignore[arg-type]


def with_versions(**versions: str | None) -> Machine:
    return replace(MACHINE, versions={**VERSIONS, **versions})


def told(*reports: NodeReport, needed: list[str] | None = None) -> list[Problem]:
    return machine_problems([node(DRIVER, cpus=0), *reports], ROOT, needed)


def test_nodes_that_are_the_same_have_no_problem() -> None:
    assert told(node("a"), node("b")) == []


@pytest.mark.parametrize(
    "name", ["python", "ray", "semievol-ray", "torch", "vllm", "transformers", "peft", "deepspeed"]
)
def test_version_that_differs_refuses_and_names_the_nodes(name: str) -> None:
    (found,) = told(node("a"), node("b", machine=with_versions(**{name: "9.9.9"})), node("c"))

    assert (found.gravity, found.kind) == (Gravity.ERROR, Kind.VERSIONS)
    assert found.text.startswith(f"{name} differs between nodes: ")
    assert "9.9.9 on b" in found.text or "9.9 on b" in found.text


def test_package_that_one_node_lacks_is_named_as_not_installed() -> None:
    (found,) = told(node("a"), node("b", machine=with_versions(vllm=None)))

    assert "0.32.0 on a; not installed on b" in found.text


@pytest.mark.parametrize("versions", [{"python": "3.11.9"}, {"faiss": "1.14"}])
def test_version_that_does_not_matter_is_no_problem(versions: dict[str, str | None]) -> None:
    assert told(node("a"), node("b", machine=with_versions(**versions))) == []


def test_source_that_differs_under_one_version_warns() -> None:
    (found,) = told(node("a"), node("b", machine=with_versions(**{SOURCE: "ffff"})))

    assert found.gravity is Gravity.WARNING


def test_engine_packages_that_the_run_does_not_import_only_warn() -> None:
    (found,) = told(node("a"), node("b", machine=with_versions(vllm=None)), needed=["ray"])

    assert found.gravity is Gravity.WARNING


def test_engine_packages_are_compared_where_engines_run() -> None:
    bare = with_versions(torch=None, vllm=None)
    gpu = replace(MACHINE, gpus=(Gpu("H200", 140 * GB),))

    assert told(node("head", cpus=0, machine=bare), node("a"), node("b")) == []
    assert told(node("cpu", machine=bare), node("g1", gpus=1, machine=gpu), node("g2", gpus=1, machine=gpu)) == []


def test_many_nodes_of_one_version_are_counted() -> None:
    (found,) = told(*(node(f"n{i}") for i in range(100)), node("odd", machine=with_versions(ray="2.59.0")))

    assert "2.60.0 on driver, n0, n1 and 98 more; 2.59.0 on odd" in found.text


def test_storage_that_a_node_cannot_read_refuses_with_the_reason() -> None:
    (found,) = told(node("a"), node("b", unread={"a": "cannot read x: No such file", "driver": "the same"}))

    assert (found.gravity, found.kind) == (Gravity.ERROR, Kind.STORAGE)
    assert f"node b cannot read what a, driver wrote in {ROOT}: cannot read x: No such file." in found.text


def test_storage_that_a_node_cannot_write_is_told_as_that() -> None:
    (found,) = told(node("a", unread={"a": "Permission denied"}))

    assert f"node a cannot write and read again in {ROOT}: Permission denied." in found.text


@pytest.mark.parametrize(
    ("machine", "kind", "words"),
    [
        (replace(MACHINE, disks=(Disk("/tmp", 2 * GB, 30 * GB),)), Kind.DISK, "only 2.0 GB of 30.0 GB are free"),
        (replace(MACHINE, disks=(Disk("/tmp", 9 * GB, 900 * GB),)), Kind.DISK, "writes nothing from 95% full on"),
        (replace(MACHINE, shared_memory_bytes=67108864), Kind.LIMITS, "--shm-size"),
        (replace(MACHINE, open_files=(256, 65536)), Kind.LIMITS, "may open 256 files"),
        (replace(MACHINE, gpus=(Gpu("H200", 0),)), Kind.DEVICES, "nvidia-smi shows 1 GPUs and Ray uses none"),
    ],
)
def test_what_is_scarce_on_a_node_warns_with_its_figures(machine: Machine, kind: Kind, words: str) -> None:
    (found,) = told(node("a"), node("b", machine=machine))

    assert (found.gravity, found.kind) == (Gravity.WARNING, kind)
    assert found.text.startswith("node b: ")
    assert words in found.text


def test_full_storage_is_told_once_for_all_nodes() -> None:
    full = replace(MACHINE, disks=(Disk("/tmp", 100 * GB, 500 * GB), Disk(ROOT, GB, 500 * GB)))
    found = machine_problems([node(DRIVER, machine=full), node("a", machine=full), node("b", machine=full)], ROOT)

    assert [(p.kind, p.gravity) for p in found] == [(Kind.DISK, Gravity.WARNING)]


def test_room_for_merged_weights_is_asked_of_the_temporary_folder() -> None:
    assert machine_problems([node("a")], ROOT, None, 90 * GB) == []
    (found,) = machine_problems([node("a")], ROOT, None, 120 * GB)
    assert "merge adapters there (120.0 GB for this run)" in found.text


@pytest.mark.parametrize(("skew", "words"), [(62.0, "62 seconds ahead of"), (-9.0, "9 seconds behind")])
def test_clock_that_is_off_warns(skew: float, words: str) -> None:
    (found,) = told(node("a"), node("b", skew_seconds=skew), node("c", skew_seconds=0.4))

    assert (found.gravity, found.kind) == (Gravity.WARNING, Kind.CLOCK)
    assert words in found.text


@pytest.mark.parametrize(
    ("silent", "gravity"),
    [
        ("it did not answer in 30 seconds", Gravity.WARNING),
        ("ModuleNotFoundError: No module named 'semievol_ray'", Gravity.ERROR),
    ],
)
def test_silent_node_warns_and_one_without_the_package_refuses(silent: str, gravity: Gravity) -> None:
    (found,) = told(node("a"), NodeReport("b", 8, 0, None, silent))

    assert (found.gravity, found.kind) == (gravity, Kind.NODE)
    assert silent in found.text


def test_gpu_node_with_a_torch_for_cpus_refuses() -> None:
    gpu = replace(with_versions(torch="2.13.0+cpu"), gpus=(Gpu("H200", 140 * GB),))
    (found,) = told(node("a", gpus=1, machine=gpu))

    assert (found.gravity, found.kind) == (Gravity.ERROR, Kind.DEVICES)


def test_errors_stand_before_warnings() -> None:
    low = replace(with_versions(ray="2.59.0"), open_files=(256, 256))

    assert [p.gravity for p in told(node("a"), node("b", machine=low))] == [Gravity.ERROR, Gravity.WARNING]
