"""`semievol doctor`: versions, devices, disks and storage of every node, and whether a configuration fits them.

Invariant: nothing is left behind and nothing is started; without an address only this machine is looked at.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from semievol_ray import preflight, storage, tables
from semievol_ray.config import RunConfig
from semievol_ray.engines.models import model_known
from semievol_ray.errors import StorageError, UserError
from semievol_ray.extras import check_extras, needed
from semievol_ray.machine import Machine, look
from semievol_ray.placement import gigabytes
from semievol_ray.problems import Gravity, Kind, Problem, machine_problems
from semievol_ray.servable import check_servable
from semievol_ray.stages.cluster import connected
from semievol_ray.stages.nodes import DRIVER, NodeReport, node_reports

SECONDS = 60.0
THIS = "this machine"


@dataclass(frozen=True)
class Diagnosis:
    """What was seen: the cluster's address (None: this machine alone), a report of each node, what is wrong."""

    address: str | None
    storage: str | None
    nodes: tuple[NodeReport, ...]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing forbids a run."""
        return not preflight.refusals(self.problems)


def examine(address: str | None, root: str | None, config: RunConfig | None) -> Diagnosis:
    """Look at a cluster, or at this machine, and at what a configuration asks of it.

    `root` is a folder or a bucket in which runs will lie. Raises PlacementError when the address does not answer.
    """
    address = address or (config.speed.address if config else None) or os.environ.get("RAY_ADDRESS")
    root = storage.absolute(root) if root else None
    found = list(_storage_problems(root))
    tried = None if found else root
    if address:
        with connected(address, os.devnull):
            reports = node_reports(tried, SECONDS)
    else:
        reports = (_here(tried),)
        found += [] if find_spec("ray") else [_missing("runs need ray: pip install 'semievol-ray[cpu]' (or [cuda]).")]
    found += _config_problems(config, reports) if config else []
    found += machine_problems(reports, tried, needed(config) if config else None)
    return Diagnosis(address, root, reports, tuple(sorted(found, key=lambda p: p.gravity is Gravity.WARNING)))


def as_json(found: Diagnosis) -> dict[str, Any]:
    """The diagnosis as JSON values; the same names as in the dataclasses."""
    return {"ok": found.ok, **asdict(found)}


def render(found: Diagnosis) -> str:
    """A table of each node, then the problems, in 80 columns."""
    where = f"Ray cluster at {found.address}" if found.address else f"{THIS} (no --address: no cluster is looked at)"
    shown: dict[tuple[tuple[str, str], ...], str] = {}
    blocks = [tables.paragraph(where)]
    for report in found.nodes:
        facts, versions = _facts(report), _versions(report)
        if versions in shown:
            facts.append(("versions", f"as {shown[versions]}"))
        else:
            facts += versions
            shown[versions] = report.node
        blocks.append(_block(report.node, facts))
    problems = [tables.paragraph(f"{p.gravity.value}: {p.text}") for p in found.problems]
    return "\n\n".join([*blocks, *(problems or ["no problem was found"])])


def _here(root: str | None) -> NodeReport:
    machine = look(None if root is None or storage.is_remote(root) else root)
    return NodeReport(THIS, machine.num_cpus, len(machine.gpus), machine)


def _storage_problems(root: str | None) -> Iterator[Problem]:
    """A folder that is not there, or a store on which no lease would hold."""
    if root is None:
        return
    if not storage.is_remote(root) and not Path(root).is_dir():
        text = f"there is no folder {root} on this machine. Make it, or name another with --storage."
        yield Problem(Gravity.ERROR, Kind.STORAGE, text)
        return
    try:
        storage.check_conditional_create(root)
    except StorageError as error:
        yield Problem(Gravity.ERROR, Kind.STORAGE, str(error))


def _config_problems(config: RunConfig, reports: Sequence[NodeReport]) -> list[Problem]:
    resources = preflight.resources_of(reports)
    found = preflight.placement_problems(config, resources)
    folders = {name: str(Path(name).expanduser()) for name in preflight.models(config)}
    weights = preflight.model_weights(config, folders, resources)  # models that are no folder here are not fetched
    found += [] if preflight.refusals(found) else preflight.memory_problems(config, resources, weights)
    if config.numerics.engine == "vllm" and not preflight.refusals(found):
        found += preflight.cache_problems(config, resources, folders, weights)
    unknown = [name for name in preflight.models(config) if not model_known(name)]
    found += [
        _missing(f"no model {name!r} is known here; `semievol check` tells what may be given.") for name in unknown
    ]
    for check in (check_extras, check_servable):
        try:
            check(config)
        except UserError as error:
            found.append(_missing(str(error)))
    return found


def _missing(text: str) -> Problem:
    return Problem(Gravity.ERROR, Kind.VERSIONS, text)


def _block(name: str, facts: Sequence[tuple[str, str]]) -> str:
    widest = max((len(what) for what, _ in facts), default=0) + 4
    lines = [tables.paragraph(value, " " * widest)[len(what) + 2 :] for what, value in facts]
    return "\n".join([name, *(f"  {what}{line}" for (what, _), line in zip(facts, lines, strict=True))])


def _facts(report: NodeReport) -> list[tuple[str, str]]:
    machine = report.machine
    if machine is None:
        return [("silent", str(report.silent))]
    facts = [("host", machine.host)] if report.node != machine.host else []
    facts += [
        ("CPUs", _cpus(report, machine)),
        ("GPUs", _gpus(machine)),
        ("memory", f"{gigabytes(machine.memory_bytes)}, {gigabytes(machine.free_memory_bytes)} free"),
    ]
    if machine.shared_memory_bytes is not None:
        facts.append(("shared memory", gigabytes(machine.shared_memory_bytes)))
    facts.append(("open files", "{:,}, at most {:,}".format(*machine.open_files)))
    facts += [
        ("disk", f"{gigabytes(disk.free_bytes)} of {gigabytes(disk.total_bytes)} free: {disk.path}")
        for disk in machine.disks
    ]
    return facts


def _versions(report: NodeReport) -> tuple[tuple[str, str], ...]:
    machine = report.machine
    if machine is None:
        return ()
    driver = {"NVIDIA driver": f"{machine.driver} (CUDA {machine.cuda})"} if machine.driver else {}
    return tuple((name, version or "not installed") for name, version in {**machine.versions, **driver}.items())


def _cpus(report: NodeReport, machine: Machine) -> str:
    same = report.node == DRIVER or report.num_cpus == machine.num_cpus
    return f"{machine.num_cpus}" if same else f"{report.num_cpus:g} for Ray, {machine.num_cpus} in the machine"


def _gpus(machine: Machine) -> str:
    names = [f"{gpu.name} ({gigabytes(gpu.memory_bytes)})" for gpu in machine.gpus]
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)) or "none"
