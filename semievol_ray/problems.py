"""What is wrong with the machines of a cluster: comparisons of what its nodes told of themselves.

Invariant: pure functions of node reports; each problem says where it is and what to do, with the figures.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain

from semievol_ray.machine import SOURCE, Machine
from semievol_ray.placement import gigabytes
from semievol_ray.stages.nodes import DRIVER, NodeReport

EVERYWHERE = ("python", "ray", "semievol-ray", SOURCE)
ENGINES = ("torch", "vllm", "transformers", "peft", "accelerate", "deepspeed", "CUDA runtime", "NCCL")
ONLY_WARNED = (SOURCE, "CUDA runtime", "NCCL")
LOW_DISK_BYTES = 5e9
FULL_SHARE = 0.95
"""From this share on Ray writes nothing more to a disk (its local_fs_capacity_threshold)."""
LOW_SHARED_MEMORY_BYTES = 1e9
LOW_OPEN_FILES = (1024, 4096)
CLOCK_SECONDS = 5.0
MOST_NAMED = 3


class Gravity(StrEnum):
    """Whether a run is refused, or only warned."""

    ERROR = "error"
    WARNING = "warning"


class Kind(StrEnum):
    """What a problem is about."""

    VERSIONS = "versions"
    NODE = "node"
    DEVICES = "devices"
    STORAGE = "storage"
    DISK = "disk"
    LIMITS = "limits"
    CLOCK = "clock"
    PLACEMENT = "placement"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, with where and what to do in its text."""

    gravity: Gravity
    kind: Kind
    text: str


def machine_problems(
    reports: Sequence[NodeReport], root: str | None, needed: Collection[str] | None = None, temporary_bytes: int = 0
) -> list[Problem]:
    """Everything that can be seen in the reports alone.

    `needed` are the packages that the run imports (None: any may be); `temporary_bytes` is what it writes into the
    temporary folder of a node at once.
    """
    checks = (
        _silent(reports),
        _versions(reports, needed),
        _devices(reports, needed),
        _storage(reports, root),
        _disks(reports, root, temporary_bytes),
        _limits(reports),
        _clocks(reports),
    )
    return sorted(chain.from_iterable(checks), key=lambda problem: problem.gravity is Gravity.WARNING)


def _silent(reports: Sequence[NodeReport]) -> Iterator[Problem]:
    for report in reports:
        if report.silent and "No module named" in report.silent:
            remedy = "Install semievol-ray in the environment that Ray runs in there."
            yield Problem(Gravity.ERROR, Kind.NODE, f"node {report.node}: {report.silent}. {remedy}")
        elif report.silent:
            remedy = "Look at it with `ray status`; take it out of the cluster when it stays so."
            yield Problem(Gravity.WARNING, Kind.NODE, f"node {report.node}: {report.silent.rstrip('.')}. {remedy}")


def _versions(reports: Sequence[NodeReport], needed: Collection[str] | None) -> Iterator[Problem]:
    told = [(report, report.machine) for report in reports if report.machine]
    hosts = engine_hosts(reports)
    for name in (*EVERYWHERE, *ENGINES):
        asked = told if name in EVERYWHERE else [(r, m) for r, m in told if r in hosts]
        nodes: dict[str, list[str]] = {}
        for report, machine in asked:
            nodes.setdefault(_compared(name, machine.versions.get(name)), []).append(report.node)
        if len(nodes) > 1:
            matters = name not in ONLY_WARNED and (name in EVERYWHERE or needed is None or name in needed)
            yield Problem(
                Gravity.ERROR if matters else Gravity.WARNING,
                Kind.VERSIONS,
                f"{name} differs between nodes: {_spread(nodes)}. Give every node the same environment: one image, or "
                "the same lock file.",
            )
    drivers: dict[str, list[str]] = {}
    for report, machine in told:
        if machine.driver and report.node != DRIVER:
            drivers.setdefault(f"driver {machine.driver}", []).append(report.node)
    if len(drivers) > 1:
        text = f"the NVIDIA drivers differ: {_spread(drivers)}. Give every node the same driver."
        yield Problem(Gravity.WARNING, Kind.VERSIONS, text)


def engine_hosts(reports: Sequence[NodeReport]) -> list[NodeReport]:
    """Nodes on which engines and training run: those with GPUs where there are any, else those with CPUs."""
    return [r for r in reports if r.num_gpus] or [r for r in reports if r.num_cpus]


def _compared(name: str, version: str | None) -> str:
    """As much of a version as has to agree: of Python the minor one."""
    if version is None:
        return "not installed"
    return ".".join(version.split(".")[:2]) if name == "python" else version


def _spread(nodes: Mapping[str, Sequence[str]]) -> str:
    """2.13.0 on a, b; 2.12.0 on c."""
    return "; ".join(f"{version} on {_some(names)}" for version, names in nodes.items())


def _some(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _devices(reports: Sequence[NodeReport], needed: Collection[str] | None) -> Iterator[Problem]:
    for report in reports:
        machine = report.machine
        if machine is None or report.node == DRIVER:
            continue
        torch = machine.versions.get("torch") or ""
        if report.num_gpus and "+cpu" in torch and (needed is None or "torch" in needed):
            text = f"node {report.node} has GPUs and torch {torch}, which uses none: install 'semievol-ray[cuda]'."
            yield Problem(Gravity.ERROR, Kind.DEVICES, text)
        if report.num_gpus > len(machine.gpus):
            text = (
                f"node {report.node}: Ray counts {report.num_gpus:g} GPUs and nvidia-smi shows {len(machine.gpus)}. "
                "Look at the driver there, or start Ray there with the right --num-gpus."
            )
            yield Problem(Gravity.WARNING, Kind.DEVICES, text)
        if machine.gpus and not report.num_gpus:
            text = (
                f"node {report.node}: nvidia-smi shows {len(machine.gpus)} GPUs and Ray uses none. Start Ray there "
                "with --num-gpus, and look at CUDA_VISIBLE_DEVICES."
            )
            yield Problem(Gravity.WARNING, Kind.DEVICES, text)


def _storage(reports: Sequence[NodeReport], root: str | None) -> Iterator[Problem]:
    for report in reports:
        if not report.unread:
            continue
        writers, reason = list(report.unread), next(iter(report.unread.values()))
        what = (
            f"cannot write and read again in {root}"
            if report.node in writers
            else f"cannot read what {_some(writers)} wrote in {root}"
        )
        text = f"{'the driver' if report.node == DRIVER else f'node {report.node}'} {what}: {reason}"
        remedy = "Runs have to lie where every node reads and writes: a shared file system under one path, or a bucket."
        yield Problem(Gravity.ERROR, Kind.STORAGE, f"{text.rstrip('.')}. {remedy}")


def _disks(reports: Sequence[NodeReport], root: str | None, temporary_bytes: int) -> Iterator[Problem]:
    for report in reports:
        for disk in report.machine.disks if report.machine else ():
            temporary = disk.path != root
            if not temporary and report is not reports[0]:
                continue  # it is one file system for all
            lowest = max(LOW_DISK_BYTES, temporary_bytes if temporary else 0)
            full = temporary and disk.free_bytes < (1 - FULL_SHARE) * disk.total_bytes
            if disk.free_bytes >= lowest and not full:
                continue
            why = (
                f"Ray spills objects there, writes nothing from {FULL_SHARE:.0%} full on, and engines merge adapters "
                f"there ({gigabytes(temporary_bytes)} for this run)"
                if temporary
                else "a run's tables and adapters lie there"
            )
            text = f"{gigabytes(disk.free_bytes)} of {gigabytes(disk.total_bytes)} are free on the disk of {disk.path}"
            yield Problem(Gravity.WARNING, Kind.DISK, f"node {report.node}: only {text}; {why}. Free some space.")


def _limits(reports: Sequence[NodeReport]) -> Iterator[Problem]:
    for report in reports:
        machine = report.machine
        if machine is None or report.node == DRIVER:
            continue
        shared, (soft, hard) = machine.shared_memory_bytes, machine.open_files
        if shared is not None and shared < LOW_SHARED_MEMORY_BYTES:
            text = (
                f"node {report.node}: /dev/shm has {gigabytes(shared)}; Ray's objects and NCCL lie there. In a "
                "container give it more: --shm-size=8g."
            )
            yield Problem(Gravity.WARNING, Kind.LIMITS, text)
        if 0 <= soft < LOW_OPEN_FILES[0] or 0 <= hard < LOW_OPEN_FILES[1]:
            text = (
                f"node {report.node}: a process may open {soft} files ({hard} at most); Ray wants 65,536. Raise "
                "nofile in /etc/security/limits.conf."
            )
            yield Problem(Gravity.WARNING, Kind.LIMITS, text)


def _clocks(reports: Sequence[NodeReport]) -> Iterator[Problem]:
    for report in reports:
        if abs(report.skew_seconds) >= CLOCK_SECONDS:
            way = "ahead of" if report.skew_seconds > 0 else "behind"
            text = (
                f"node {report.node}: its clock is at least {abs(report.skew_seconds):.0f} seconds {way} this "
                "machine's. Logs mislead, and buckets refuse requests beyond 15 minutes: run an NTP service there."
            )
            yield Problem(Gravity.WARNING, Kind.CLOCK, text)


def engine_memory(machine: Machine | None) -> tuple[int, tuple[int, ...]]:
    """A machine's memory and that of each GPU, in bytes; nothing where it is not known."""
    return (machine.memory_bytes, tuple(gpu.memory_bytes for gpu in machine.gpus)) if machine else (0, ())
