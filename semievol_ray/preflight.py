"""What a run looks at before anything is trained or generated: its machines, and whether all it needs can be placed.

Invariant: every reason to refuse is told at once; the whole report stands in the run's events.
"""

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from semievol_ray.config import RunConfig
from semievol_ray.engines.embed import HASH
from semievol_ray.engines.fit import Sizing, shortage
from semievol_ray.engines.footprint import cache_bytes_a_token, weight_bytes
from semievol_ray.engines.memory import plan_of, shape_of
from semievol_ray.engines.references import file_sizes, is_folder, local_weights
from semievol_ray.errors import ClusterError, PlacementError
from semievol_ray.extras import needed
from semievol_ray.methodconfig import CollaboratorConfig
from semievol_ray.placement import (
    Node,
    Resources,
    cache_shortage,
    engine_memory_shortage,
    engine_shortage,
    place_training,
    places_on,
    training_memory_shortage,
    training_shortage,
)
from semievol_ray.problems import Gravity, Kind, Problem, engine_hosts, engine_memory, machine_problems
from semievol_ray.servable import check_templates
from semievol_ray.stages.context import Context
from semievol_ray.stages.environments import runtime_env_mistakes
from semievol_ray.stages.nodes import DRIVER, NodeReport, models_held, node_reports

SECONDS = 30.0


def preflight(context: Context) -> None:
    """Look at the connected cluster; warnings go to the terminal.

    Raises PlacementError when something cannot be placed, ClusterError when the machines are not fit for the run.
    """
    _look(context, context.config, trains=True)


def looked_over(context: Context) -> None:
    """The same look where nothing is to run here: what it finds stands in the events and refuses nothing."""
    _look(context, context.config, trains=True, refuses=False)


def serving_preflight(context: Context) -> None:
    """The same for commands that answer with a run's own model alone, without demonstrations, and train nothing."""
    method = context.config.method.model_copy(update={"collaborators": (CollaboratorConfig(),)})
    _look(context, context.config.model_copy(update={"method": method}), trains=False)


def _look(context: Context, config: RunConfig, *, trains: bool, refuses: bool = True) -> None:
    began = time.monotonic()
    joined = bool(config.speed.address or os.environ.get("RAY_ADDRESS"))
    reports = node_reports(context.run.root, SECONDS, joined=joined)
    resources = resources_of(reports)
    found = placement_problems(config, resources, trains=trains)
    if not refusals(found):
        folders = {name: local_weights(context.model(name).path) for name in models(config)}
        weights = model_weights(config, folders, resources)
        found += memory_problems(config, resources, weights, trains=trains)
        if trains and not refusals(found):
            found += training_problems(config, resources, folders)
        if config.numerics.engine == "vllm":
            check_templates(folders)
            found += cache_problems(config, resources, folders, weights)
        modules, merged = needed(config, trains=trains), _merged_bytes(config, resources, weights)
        found += machine_problems(reports, context.run.root, modules, merged)
    if not refusals(found) and len(reports) > 1:
        found += model_problems(context, loaded_models(config), reports)
    context.run.event(
        "preflight",
        seconds=round(time.monotonic() - began, 3),
        nodes=[asdict(report) for report in reports],
        problems=[asdict(problem) for problem in found],
    )
    if not refuses:
        return
    for problem in found:
        if problem.gravity is Gravity.WARNING:
            context.progress.say(f"warning: {problem.text}")
    refuse(found)


def model_problems(context: Context, names: Sequence[str], reports: Sequence[NodeReport]) -> list[Problem]:
    """Nodes that cannot load these models; each of those that could fetch what it lacked has it now."""
    hosts = {report.node for report in engine_hosts(reports)}
    found = [context.model(name).reference for name in names]
    if fetched := [name for name, reference in zip(names, found, strict=True) if not is_folder(reference)]:
        context.progress.say(f"every node fetches what it lacks of {', '.join(fetched)}")
    sizes = {reference: file_sizes(reference) if is_folder(reference) else {} for reference in found}
    told = models_held(sizes, hosts, context.config.speed.start_seconds) if found else {}
    wrong = [
        Problem(Gravity.ERROR, Kind.NODE, f"node {node}: {text}")
        for node, one in told.items()
        for text in one.value or ()
    ]
    return wrong + [
        Problem(Gravity.WARNING, Kind.NODE, f"node {node}: whether it has the models is not known: {one.silent}")
        for node, one in told.items()
        if one.silent
    ]


def loaded_models(config: RunConfig) -> list[str]:
    """All models that nodes load: those of `models` and the embedder, where one is asked."""
    embedder, task = config.method.embedder, config.resolve_task()
    is_asked = config.method.num_demonstrations > 0 or task.needs_vectors
    return [*models(config), *([embedder] if is_asked and embedder != HASH else [])]


def refuse(problems: Sequence[Problem]) -> None:
    """Raises PlacementError or ClusterError with everything that forbids the run; nothing otherwise."""
    if not (wrong := refusals(problems)):
        return
    error = PlacementError if all(problem.kind is Kind.PLACEMENT for problem in wrong) else ClusterError
    if len(wrong) == 1:
        raise error(wrong[0].text)
    listed = "\n".join(f"{i}. {problem.text}" for i, problem in enumerate(wrong, 1))
    raise error(f"this run cannot start, for {len(wrong)} reasons:\n{listed}")


def refusals(problems: Sequence[Problem]) -> list[Problem]:
    """Those that forbid a run."""
    return [problem for problem in problems if problem.gravity is Gravity.ERROR]


def resources_of(reports: Sequence[NodeReport]) -> Resources:
    """The cluster that reports describe, with the memory that they know; of a node's GPUs those that Ray gives out."""
    return Resources(tuple(_node(report) for report in reports if report.node != DRIVER))


def _node(report: NodeReport) -> Node:
    """Which GPUs Ray counts is not told: the largest, for a display card is no reason to refuse a run."""
    memory, gpus = engine_memory(report.machine)
    given = sorted(gpus, reverse=True)[: math.ceil(report.num_gpus)]
    return Node(report.num_cpus, report.num_gpus, memory, tuple(given), report.node)


def placement_problems(config: RunConfig, resources: Resources, *, trains: bool = True) -> list[Problem]:
    """Engines and, where it `trains`, workers that find no room; warnings on a cluster that grows by itself."""
    speed = config.speed
    lacking = [engine_shortage(speed, resources), training_shortage(speed, resources) if trains else None]
    found = [lack for lack in lacking if lack]
    gravity = Gravity.WARNING if speed.autoscaling else Gravity.ERROR
    problems = [Problem(gravity, Kind.PLACEMENT, lack) for lack in found]
    problems += [Problem(Gravity.ERROR, Kind.VERSIONS, wrong) for wrong in runtime_env_mistakes(speed)]
    if speed.autoscaling and not resources.num_gpus:
        text = "no node has a GPU now, so that this run uses CPUs. For GPUs keep one such node up (min_workers: 1)."
        problems.append(Problem(Gravity.WARNING, Kind.PLACEMENT, text))
    return problems


def models(config: RunConfig) -> list[str]:
    """The models whose weights engines load: the student and the collaborators' own; none are scripted."""
    if config.numerics.engine == "scripted":
        return []
    own = [c.model for c in config.method.collaborators if c.model and not c.endpoint and c.model != HASH]
    return list(dict.fromkeys([config.model, *own]))


def model_weights(config: RunConfig, folders: Mapping[str, str], resources: Resources) -> dict[str, int]:
    """Model -> bytes of its weights in the dtype it is served in, where that is known."""
    numerics, dtype = config.numerics, serving_dtype(config, resources)
    found = {name: weight_bytes(folder, dtype, numerics.quantization) for name, folder in folders.items()}
    return {name: size for name, size in found.items() if size}


def serving_dtype(config: RunConfig, resources: Resources) -> str:
    chosen = config.numerics.dtype
    return ("bfloat16" if resources.num_gpus else "float32") if chosen == "auto" else chosen


def memory_problems(
    config: RunConfig, resources: Resources, weights: Mapping[str, int], *, trains: bool = True
) -> list[Problem]:
    """Models whose weights fit no GPU or node, for serving and for fine-tuning; `weights` are in the serving dtype."""
    speed, served = config.speed, serving_dtype(config, resources)
    trained = config.numerics.train_dtype
    trained = ("bfloat16" if resources.num_gpus else "float32") if trained == "auto" else trained
    tuned = tuned_models(config) if trains else set()
    found = [engine_memory_shortage(speed, resources, size, f"{name} in {served}") for name, size in weights.items()]
    ratio = (4 if trained == "float32" else 2) / (4 if served == "float32" else 2)
    found += [
        training_memory_shortage(speed, resources, int(size * ratio), f"{name} in {trained}")
        for name, size in weights.items()
        if name in tuned
    ]
    return [Problem(Gravity.ERROR, Kind.PLACEMENT, lack) for lack in found if lack]


def cache_problems(
    config: RunConfig, resources: Resources, folders: Mapping[str, str], weights: Mapping[str, int]
) -> list[Problem]:
    """Models of which an engine's cache does not hold one prompt of the longest length that is allowed."""
    if "kv_cache_dtype" in config.numerics.engine_kwargs:
        return []
    dtype = serving_dtype(config, resources)
    sizes = {name: cache_bytes_a_token(folder, dtype) for name, folder in folders.items() if name in weights}
    longest = config.numerics.max_model_len
    found = [
        cache_shortage(config.speed, resources, weights[name], size, longest, f"{name} in {dtype}")
        for name, size in sizes.items()
        if size
    ]
    return [Problem(Gravity.ERROR, Kind.PLACEMENT, lack) for lack in found if lack]


def training_problems(config: RunConfig, resources: Resources, folders: Mapping[str, str]) -> list[Problem]:
    """Models whose fine-tuning takes more than its GPU or node has, before any example: weights and what learns them.

    A model of unknown shape is passed over. On a CPU the workers of a node share its memory.
    """
    on_gpu, speed = bool(resources.num_gpus), config.speed
    trained = config.numerics.train_dtype
    trained = ("bfloat16" if on_gpu else "float32") if trained == "auto" else trained
    sizes = [size for node in resources.nodes for size in node.gpu_bytes]
    if not on_gpu:
        cpus, _ = place_training(speed.model_copy(update={"autoscaling": True}), resources)
        shares = [
            (node.memory_bytes, min(speed.num_train_workers, places_on(node, cpus, 0.0))) for node in resources.nodes
        ]
        sizes = [size // here for size, here in shares if size and here]
    if not sizes:
        return []
    found = []
    for name in sorted(tuned_models(config) & folders.keys()):
        if shape := shape_of(folders[name]):
            sizing = Sizing(shape, plan_of(shape, config.train, speed, trained), on_gpu)
            if told := shortage(sizing, min(sizes)):
                found.append(Problem(Gravity.ERROR, Kind.PLACEMENT, f"{name} in {trained}: {told}"))
    return found


def tuned_models(config: RunConfig) -> set[str]:
    """The models that are fine-tuned: the student, and the collaborators' own with a warm-up."""
    return {config.model, *(c.model for c in config.method.collaborators if c.model and c.adapter == "warm")}


def _merged_bytes(config: RunConfig, resources: Resources, weights: Mapping[str, int]) -> int:
    """What merging an adapter writes into a node's temporary folder, once for all engines that start there together.

    Nothing where adapters are served as they are.
    """
    serving, train = config.numerics.adapter_serving, config.train
    merges = serving == "merged" or (serving == "auto" and (not resources.num_gpus or train.use_dora))
    merges = merges and train.method != "full"
    return max(weights.values(), default=0) if merges else 0
