"""What is served, as plain values that travel to any node: an engine, its models by name, and how rows are labelled.

Invariant: every model's name says the run and the round, so that no client's cache mixes two of them up.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from semievol_ray.core.certificate import Certificate
from semievol_ray.engines.base import EngineSpec
from semievol_ray.stages.alone import Alone
from semievol_ray.tasks import Task


@dataclass(frozen=True)
class Labelling:
    """/v1/label: the name of the model that answers, how it is asked, and what its dev fold certifies."""

    model: str
    manner: Alone
    certificate: Certificate


@dataclass(frozen=True)
class Serving:
    """One replica. `models` maps served names to the engine's adapters (None: the weights themselves).

    `key` is the digest of the API key; None lets everyone ask.
    """

    spec: EngineSpec
    models: Mapping[str, str | None]
    labelling: Labelling
    task: Task
    template_date: str
    key: str | None


def model_name(run: str, number: int | None) -> str:
    """The name under which a round's model is served, the base's where `number` is None; round 0 is the warm-up."""
    return f"{run}-base" if number is None else f"{run}-round-{number}"
