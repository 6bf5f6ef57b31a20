"""A model asked alone: its greedy answers to plain questions, and H of each; how `label` and /v1/label answer.

Invariant: one procedure answers new rows, the rows that certify a threshold, and requests to a served model: greedy, no
demonstrations, no drafts, H by the run's own estimator (mean_nll in place of vote_entropy, which needs drafts).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from semievol_ray.engines.base import Sampling
from semievol_ray.methodconfig import Confidence
from semievol_ray.runs import Step
from semievol_ray.stages.context import Adapter, Context
from semievol_ray.stages.groups import Wanted
from semievol_ray.stages.justify import JustifyJob


@dataclass(frozen=True)
class Alone:
    """How a model is asked alone; `adapter` None asks the base model, or the weights as they were merged."""

    sampling: Sampling
    adapter: str | None
    confidence: Confidence
    when: Literal["always"] = "always"


def estimator(configured: Confidence) -> Confidence:
    """What H is for a model without drafts beside it."""
    return "mean_nll" if configured == "vote_entropy" else configured


def asked_alone(
    context: Context, name: str, rows: Step, adapter: Adapter, numerics: Mapping[str, Any] | None = None
) -> Wanted:
    """The step `name`: JUSTIFIED, without drafts, of rows by one fine-tuned model.

    `numerics` are this machine's where they are not given; a step that was begun keeps its own.
    """
    confidence, model = estimator(context.config.method.confidence), context.model()
    step = context.step(
        name,
        settings={
            "task": context.task.settings(),
            "confidence": confidence,
            "numerics": context.numerics_settings(),
        },
        inputs={"rows": rows.digest(), "model": model.digest, "adapter": adapter.digest},
        parts=rows.parts,
        numerics=context.serving_numerics if numerics is None else lambda: numerics,
    )
    sampling = Sampling(0.0, context.task.max_tokens)
    return Wanted(JustifyJob(step, rows, (), sampling, adapter.name, confidence), model.name, adapter)
