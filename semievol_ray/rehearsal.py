"""A run gone through without doing anything: the committed steps are compared as a run compares them.

Invariant: nothing is begun, committed or removed; the first step with work to do ends the rehearsal.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from semievol_ray import driver, storage
from semievol_ray.check import planned_steps
from semievol_ray.config import RunConfig
from semievol_ray.errors import SemievolError
from semievol_ray.lease import require_free
from semievol_ray.placement import Resources
from semievol_ray.progress import Progress
from semievol_ray.runs import Run, Step, read_steps, refuse_drift
from semievol_ray.sizes import committed_splits
from semievol_ray.stages.context import Context
from semievol_ray.stages.cutter import Cutter
from semievol_ray.stages.ingest import ingest_test
from semievol_ray.stages.labels import cut_labels


class _ReachedError(SemievolError):
    """The rehearsal came to a step that is not committed."""


class _Rehearsed(Run):
    """A run directory that is read as a driver reads it; it is not held, and no lease is taken."""

    def __init__(self, root: str) -> None:
        self.root, self.fence, self.attempt = root, 0, 0

    def event(self, kind: str, **fields: object) -> None: ...

    def step(
        self,
        name: str,
        *,
        settings: Mapping[str, object],
        inputs: Mapping[str, str],
        parts: Sequence[str],
        numerics: Mapping[str, object] | None = None,  # noqa: ARG002 - resolved when a step begins
    ) -> Step:
        """The committed step. Raises DriftError where it was made otherwise, and ends the rehearsal at any other."""
        step = Step(self.path(name), name, tuple(parts))
        if not storage.exists(f"{step.path}/step.json"):
            raise _ReachedError(name)
        same = {"settings": dict(settings), "inputs": dict(inputs), "parts": list(parts)}
        refuse_drift(self.root, name, step.record(), same)
        if not step.committed():
            raise _ReachedError(name)
        return step


def first_step(config: RunConfig, root: str) -> str | None:
    """The first step that the same `semievol run` would work on; None for a run that is finished.

    Raises DriftError where a step was made with other settings, RunInUseError while a driver of this host lives.
    """
    root = storage.absolute(root)
    if not storage.exists(f"{root}/manifest.json"):
        return planned_steps(config)[0]
    require_free(root)
    try:
        with ExitStack() as closing:
            _go_through(config, root, closing)
    except _ReachedError as reached:
        return str(reached)
    return None


def _go_through(config: RunConfig, root: str, closing: ExitStack) -> None:
    """The loop of a run, or its labeled splits alone while its data are not all committed: cutting would write."""
    run = _Rehearsed(root)
    if committed_splits(config, root) is not None:
        kept = config.model_copy(update={"keep": "all"})  # what a round's end would remove stays
        context = Context(run, kept, Progress(quiet=True), closing)
        context.resources = Resources(())  # nothing is placed, so that no Ray is started
        driver.evolve(context)
        return
    task = config.resolve_task()
    test = ingest_test(run, config, task, config.data.test) if config.data.test else None
    cut_labels(Cutter(run, config, task), {"test": test} if test else {})
    done = {name for name, record in read_steps(root) if record.get("committed")}
    raise _ReachedError(next(name for name in planned_steps(config) if name not in done))
