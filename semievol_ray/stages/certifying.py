"""Certifying: a round's model answers the dev fold as it answers new rows, and the fold's labels certify a threshold.

The rows whose H the thresholds are taken from are test questions where the run has a test split, for no fine-tuning has
seen them, and else a sample of the pool; their answers, if any, are not looked at. Where the run's own rule was
calibrated, slices of the same fold set the rounds' thresholds, one number a round, which the certificate leaves out of
account. Invariant: a certificate belongs to one adapter under one set of numerics.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from semievol_ray import schema, storage
from semievol_ray.core.certificate import Certificate, certify, uncertified
from semievol_ray.core.identity import sample_key
from semievol_ray.methodconfig import FdrConfig, PercentileConfig, PrecisionBoundConfig
from semievol_ray.runs import Step
from semievol_ray.stages.alone import asked_alone
from semievol_ray.stages.columns import floats, known
from semievol_ray.stages.context import Adapter, Context
from semievol_ray.stages.evaluate import known_right
from semievol_ray.stages.groups import Wanted

NUM_OTHERS = 512
"""Rows from whose H the thresholds are taken; precision_bound tests 20 of them by default."""
NO_DEV_FOLD = (
    "the run has no dev fold (data.dev), so there are no labels that could certify a threshold for these answers"
)
FOLDER = "labels/certificates"


@dataclass(frozen=True)
class Target:
    """What is to be certified: a precision, at a confidence, by testing at most so many thresholds."""

    precision: float
    level: float
    num_thresholds: int


@dataclass(frozen=True)
class Certifying:
    """The answers that a certificate is made of, to be given in one session with others, and where it is stored."""

    name: str
    dev: Wanted
    others: Wanted


def target_of(rule: PercentileConfig | PrecisionBoundConfig | FdrConfig) -> Target:
    """The run's own target; precision_bound's defaults for a percentile, which has none."""
    default = PrecisionBoundConfig(rule="precision_bound")
    match rule:
        case PrecisionBoundConfig():
            return Target(rule.target_precision, rule.level, rule.num_thresholds)
        case FdrConfig():
            return Target(1 - rule.target_error, default.level, default.num_thresholds)
        case PercentileConfig():
            return Target(default.target_precision, default.level, default.num_thresholds)


def certifying(context: Context, number: int, adapter: Adapter, numerics: Mapping[str, Any]) -> Certifying | None:
    """What has to be answered before round `number`'s model has a certificate; None for a run without a dev fold."""
    dev = committed_step(context, "data/distinct/dev") or committed_step(context, "data/dev")
    if dev is None:
        return None
    folder = f"{FOLDER}/round-{number:04d}-{'-'.join(str(numerics[key]) for key in sorted(numerics))}"
    return Certifying(
        f"{folder}/certificate",
        asked_alone(context, f"{folder}/dev", dev, adapter, numerics),
        asked_alone(context, f"{folder}/others", _others(context), adapter, numerics),
    )


def certified(context: Context, found: Certifying | None) -> Certificate:
    """The certificate of answers that are all committed."""
    if found is None:
        return uncertified(NO_DEV_FOLD)
    gold = committed_step(context, "data/dev_gold")
    assert gold is not None
    target = target_of(context.config.method.select)
    dev, others = found.dev.job.step, found.others.job.step
    step = context.step(
        found.name,
        settings={"target": asdict(target)},
        inputs={"dev": dev.digest(), "others": others.digest(), "dev_gold": gold.digest(), **context.agreeing_input},
        parts=[],
    )
    if not step.committed():
        confidences_D, correct_D = _judged(context, dev, gold)
        made = certify(
            confidences_D, correct_D, _confidences(others), target.precision, target.level, target.num_thresholds
        )
        context.run.commit(step, asdict(made))
    return Certificate(**(step.committed() or {})["metrics"])


def committed_step(context: Context, name: str) -> Step | None:
    """A step of the run as it lies there; None where it is not committed."""
    path = context.run.path(name)
    if not storage.exists(f"{path}/step.json"):
        return None
    step = Step(path, name, ())
    return Step(path, name, tuple(step.record()["parts"])) if step.committed() else None


def _others(context: Context) -> Step:
    """Rows whose H thresholds are taken from, as UNLABELED, drawn by a hash of (seed, id)."""
    test = committed_step(context, "data/test")
    source = test or committed_step(context, "data/unlabeled")
    assert source is not None
    step = context.step(
        f"{FOLDER}/others",
        settings={"rows": NUM_OTHERS, "seed": context.config.seed},
        inputs={source.name: source.digest()},
        parts=["part-00000"],
    )
    if not step.committed():
        rows = list(_some(source, schema.LABELED if test else schema.UNLABELED))
        drawn = sorted(rows, key=lambda row: sample_key(context.config.seed, f"others/{row['id']}"))[:NUM_OTHERS]
        table = pa.Table.from_pylist([{**row, "num_copies": 1} for row in drawn], schema=schema.UNLABELED)
        step.commit_part(step.parts[0], table)
        context.run.commit(step, {})
    return step


def _some(source: Step, columns: pa.Schema) -> Iterator[dict[str, Any]]:
    """Rows without their answers, of as few parts, evenly spread over the step, as hold NUM_OTHERS of them."""
    names = [name for name in schema.UNLABELED.names if name != "num_copies"]
    fewest = -(-NUM_OTHERS * len(source.parts) // max(1, source.num_rows()))
    for part in _spread(source.parts, fewest + 1):
        yield from source.read_part(part, columns, names).to_pylist()


def _spread(parts: Sequence[str], num: int) -> list[str]:
    """At most `num` of the parts, evenly spaced."""
    if len(parts) <= num:
        return list(parts)
    return [parts[i * len(parts) // num] for i in range(num)]


def _confidences(step: Step) -> np.ndarray[Any, np.dtype[np.float32]]:
    """H of every row that has one."""
    columns = [step.read_part(part, schema.JUSTIFIED, ["confidence"]).column("confidence") for part in step.parts]
    return np.concatenate([floats(column)[known(column)] for column in columns])


def _judged(
    context: Context, dev: Step, gold: Step
) -> tuple[np.ndarray[Any, np.dtype[np.float32]], np.ndarray[Any, np.dtype[np.bool_]]]:
    """H of each answered row of the dev fold that has one, and whether its label is right."""
    golds = {row["id"]: row["answer"] for part in gold.parts for row in gold.read_part(part, schema.GOLD).to_pylist()}
    columns = ["id", "label", "confidence"]
    read = (row for part in dev.parts for row in dev.read_part(part, schema.JUSTIFIED, columns).to_pylist())
    rows = [row for row in read if row["confidence"] is not None]
    labels, answers = [row["label"] for row in rows], [golds[row["id"]] for row in rows]
    right = known_right(labels, answers, context.task, context.agreeing_path)
    return np.array([row["confidence"] for row in rows], dtype=np.float32), np.array(right, dtype=bool)
