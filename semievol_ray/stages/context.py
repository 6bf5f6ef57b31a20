"""What every step of a run is given: run directory, configuration, resolved models, and Ray when it is first needed.

Invariant: a run whose steps are all committed never starts Ray.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from semievol_ray import storage
from semievol_ray.config import RunConfig
from semievol_ray.deadline import Deadline
from semievol_ray.engines.adapters import LARGEST_RANK, adapter_settings, only_merged
from semievol_ray.engines.embed import HASH
from semievol_ray.engines.models import ResolvedModel, resolve_model
from semievol_ray.errors import PlacementError
from semievol_ray.placement import Resources, cluster_resources, standing
from semievol_ray.progress import Progress
from semievol_ray.runs import Run, Step
from semievol_ray.stages.cluster import connected
from semievol_ray.tasks import Task
from semievol_ray.tracking.trackers import Trackers


@dataclass(frozen=True)
class Adapter:
    """A fine-tuned adapter, or whole model (train.method full); `name` is new every round, so no cache is stale."""

    path: str
    digest: str
    name: str


class Context:
    """One driver's view of one run, for as long as it lasts."""

    def __init__(
        self,
        run: Run,
        config: RunConfig,
        progress: Progress,
        closing: ExitStack,
        trackers: Trackers | None = None,
        preflight: "Callable[[Context], None] | None" = None,
        until: Deadline | None = None,
    ) -> None:
        self.run, self.config, self.progress = run, config, progress
        self.task: Task = config.resolve_task()
        self._closing = closing
        self._models: dict[str, ResolvedModel] = {}
        self.trackers = trackers or Trackers([])
        self._preflight = preflight
        self.until = until
        self._joined = False

    @cached_property
    def resources(self) -> Resources:
        """The cluster's resources; the first use connects to Ray, and the preflight may refuse what it finds there."""
        self.progress.say("starting Ray" if self.config.speed.address is None else "joining Ray")
        self._closing.enter_context(connected(self.config.speed.address, self.run.log_path))
        if self._preflight:
            self._preflight(self)
        self._joined = True
        return cluster_resources()

    def resources_now(self) -> Resources:
        """The cluster as it stands before another pool: machines may have joined since `resources` was looked up."""
        first = self.resources
        return standing(first, cluster_resources()) if self._joined else first

    @property
    def deadline(self) -> float | None:
        """The moment, as time.time() counts, at which work is to have stopped."""
        return self.until.at if self.until else None

    @property
    def on_gpu(self) -> bool:
        return self.resources.num_gpus > 0

    def model(self, name: str | None = None) -> ResolvedModel:
        """A model's local weights; the student's when no name is given."""
        name = name or self.config.model
        if name == HASH or self.config.numerics.engine == "scripted":
            return ResolvedModel(name, name, storage.digest(name.encode()), name)
        if name not in self._models:
            self._models[name] = resolve_model(name, report=self.progress.say)
        return self._models[name]

    @property
    def agreeing_path(self) -> str | None:
        """The embedder by which answers agree; None for a task that compares their texts alone."""
        return self.model(self.config.method.embedder).reference if self.task.needs_vectors else None

    @property
    def agreeing_input(self) -> dict[str, str]:
        """The same as an input of the steps whose output depends on it."""
        return {"embedder": self.model(self.config.method.embedder).digest} if self.task.needs_vectors else {}

    def step(
        self,
        name: str,
        *,
        settings: Mapping[str, Any],
        inputs: Mapping[str, str],
        parts: Sequence[str],
        numerics: Callable[[], Mapping[str, Any]] | None = None,
    ) -> Step:
        """Begin or resume a step; `numerics` is resolved only when it begins. Raises DeadlineReached after that."""
        begins = not storage.exists(self.run.path(name, "step.json"))
        resolved = numerics() if numerics and begins else {}
        step = self.run.step(name, settings=settings, inputs=inputs, parts=parts, numerics=resolved)
        if self.until and not step.committed():
            self.until.require(name)
        return step

    def serving_numerics(self) -> dict[str, Any]:
        """dtype and adapter serving as resolved here: float32 and merged on CPUs, bfloat16 and dynamic on GPUs.

        What cannot be served dynamically, a whole model, DoRA or modules_to_save, is served merged on both.
        """
        chosen = self.config.numerics
        dtype = ("bfloat16" if self.on_gpu else "float32") if chosen.dtype == "auto" else chosen.dtype
        imported = self.config.method.warm_adapter
        train = self.config.train
        alone = train.method == "full" or train.use_dora or train.lora_r > LARGEST_RANK
        alone = alone or bool(imported and only_merged(adapter_settings(imported) or {}))
        serving = (
            ("dynamic" if self.on_gpu and not alone else "merged")
            if chosen.adapter_serving == "auto"
            else chosen.adapter_serving
        )
        return {"dtype": dtype, "adapter_serving": serving, "device": "gpu" if self.on_gpu else "cpu"}

    def endpoint_numerics(self) -> dict[str, Any]:
        """What is known of the numbers behind an endpoint: nothing."""
        return {"dtype": "endpoint", "adapter_serving": "none", "device": "endpoint"}

    def training_dtype(self) -> str:
        chosen = self.config.numerics.train_dtype
        return ("bfloat16" if self.on_gpu else "float32") if chosen == "auto" else chosen

    def numerics_settings(self) -> dict[str, Any]:
        """The configured numerics, as they stand in a fingerprint of generation."""
        return self.config.numerics.model_dump(mode="json", exclude={"train_dtype"})


def require_device(step: Step, *, on_gpu: bool) -> None:
    """PlacementError where a step that was begun on GPUs would go on without: its numbers would be others."""
    if step.numerics().get("device") == "gpu" and not on_gpu:
        raise PlacementError(
            f"{step.name} was begun on GPUs, and the cluster has none now. Go on where there are some (--address), or "
            f"make it again on CPUs: delete the folder {step.path}."
        )
