"""Selecting: a round's cuts and decisions as committed steps, for the pool and the dev fold; and what guards a round.

Invariant: the dev slice of round r alone sets a calibrated threshold of round r; gold answers of the pool set nothing.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from semievol_ray import schema
from semievol_ray.config import GuardConfig
from semievol_ray.core.calibration import fewest_certifying, largest_certifiable, smallest_error
from semievol_ray.core.selection import Cut, Decision
from semievol_ray.errors import ConfigError, NothingAcceptedError
from semievol_ray.methodconfig import FdrConfig, PercentileConfig, PrecisionBoundConfig
from semievol_ray.runs import Step
from semievol_ray.stages.audit import audit_round, totals_of
from semievol_ray.stages.context import Context
from semievol_ray.stages.counting import commit
from semievol_ray.stages.cuts import TIES_WARNING_POINTS, Judged, choose_cuts
from semievol_ray.stages.evaluate import known_right, pseudo_label_metrics
from semievol_ray.stages.ingest import Data
from semievol_ray.stages.pools import dev_slices
from semievol_ray.stages.scaffold import remove
from semievol_ray.stages.select import Answered, Cuts, select


@dataclass(frozen=True)
class Selection:
    """A round's committed decisions: of the pool, and of the dev fold where there is one."""

    pool: Step
    dev: Step | None


def check_feasible(context: Context, data: Data) -> None:
    """Refuse a calibrated rule that no threshold can meet, before anything is trained. Raises ConfigError."""
    rule, rounds = context.config.method.select, context.config.method.rounds.num
    if data.dev is None:
        return
    num_rows = data.dev.rows.num_rows() // rounds
    match rule:
        case PrecisionBoundConfig():
            _check_bound(rule, num_rows)
        case FdrConfig():
            _check_error(rule, num_rows)


def _check_bound(rule: PrecisionBoundConfig, num_rows: int) -> None:
    needed = fewest_certifying(rule.target_precision, rule.level)
    if num_rows < needed:
        most = largest_certifiable(num_rows, rule.level)
        raise ConfigError(
            f"data.dev: {num_rows} rows a round certify a precision of at most {most:.3f} at {100 * rule.level:g}% "
            f"confidence, all of them right; method.select.target_precision {rule.target_precision:g} takes at least "
            f"{needed}. Hold out more rows, lower the target or the level, or do fewer rounds."
        )


def _check_error(rule: FdrConfig, num_rows: int) -> None:
    least = smallest_error(num_rows)
    if rule.target_error < least:
        raise ConfigError(
            f"data.dev: {num_rows} rows a round keep the expected share of wrong labels at {least:.3f} at best, none "
            f"of them wrong; method.select.target_error {rule.target_error:g} takes at least "
            f"{math.ceil(1 / rule.target_error - 1e-9) - 1}. Hold out more rows, raise the target, or do fewer rounds."
        )


def select_round(
    context: Context,
    number: int,
    data: Data,
    answered: Answered,
    dev: Answered | None,
    first: Step | None,
) -> Selection:
    """Commit the round's decisions; `first` is round 1's selection. Raises NothingAcceptedError: guarded or empty."""
    method = context.config.method
    ceiling = first if number > 1 and method.rounds.threshold == "ceiling" else None
    inputs = {"justify": answered.justified.digest()} | ({"ceiling": ceiling.digest()} if ceiling else {})
    inputs |= {"labeled": data.labeled.digest()} if method.select.quota is not None else {}
    calibrated = not isinstance(method.select, PercentileConfig)
    if calibrated:
        assert dev is not None
        assert data.dev is not None
        inputs |= {"dev": dev.justified.digest(), "dev_gold": data.dev.gold.digest()}
        inputs |= context.agreeing_input  # says which dev rows are right
    slices = {"slices": method.rounds.num} if dev else {}  # which dev rows judge this round
    step = context.step(
        f"rounds/{number:04d}/select",
        settings={"select": method.select.model_dump(mode="json", exclude_none=True), **slices},
        inputs=inputs,
        parts=answered.pool.parts,
    )
    dev_step = _dev_step(context, number, step, dev)
    if not step.committed() or (dev_step and not dev_step.committed()):
        assert context.resources
        try:
            cuts = choose_cuts(
                answered,
                method.select,
                judged=_judged(context, number, data, dev) if calibrated and dev else None,
                ceiling=cuts_of(ceiling) if ceiling else None,
                label_counts=_label_counts(data.labeled) if method.select.quota is not None else None,
            )
        except NothingAcceptedError:
            for begun in (step, dev_step):  # nothing was decided, so that another rule may begin them
                if begun and not begun.committed():
                    remove(context.run, begun.name)
            raise
        with context.progress.step(f"round-{number} select", answered.pool.num_rows(step.missing_parts())) as bar:
            select(step, answered, cuts, lambda decided: bar.advance(decided.total()))
        if dev and dev_step:
            select(dev_step, dev, cuts, lambda _: None)
        _commit(context, number, data, step, dev_step, answered, dev, cuts)
    selection = Selection(step, dev_step)
    guard(context.config.guard, number, step)
    return selection


def guard(config: GuardConfig, number: int, selection: Step) -> None:
    """Stop a round that would train on noise. Raises NothingAcceptedError with the reason and what can be done."""
    metrics = (selection.committed() or {})["metrics"]
    accepted, answers = metrics["num_accepted"], metrics["num_accepted_answers"]
    reason = ""
    if accepted < config.min_accepted:
        reason = f"accepted rows: {accepted}, and guard.min_accepted is {config.min_accepted}"
    elif answers is not None and answers < config.min_answers:
        reason = f"all accepted rows have {answers} different answers and guard.min_answers is {config.min_answers}"
    elif config.min_precision is not None and _dev_precision(metrics) < config.min_precision:
        judged, right = metrics["dev_accepted"], metrics["dev_right"]
        reason = f"{right} of {judged} accepted dev rows are right and guard.min_precision is {config.min_precision:g}"
    if reason:
        raise NothingAcceptedError(
            f"round {number} stops before training: {reason}. Nothing is lost: look at the rows with `semievol "
            "report` and `semievol explain`; running again with another guard goes on from here."
        )


def cuts_of(selection: Step) -> Cuts:
    """The cuts a committed selection was made with."""
    stored = (selection.committed() or {})["metrics"]["cuts"]
    cuts, quotas = ({k: Cut(**c) for k, c in stored[name].items()} for name in ("cuts", "quotas"))
    return Cuts(**{**stored, "cuts": cuts, "quotas": quotas})


def _dev_step(context: Context, number: int, pool_step: Step, dev: Answered | None) -> Step | None:
    if dev is None:
        return None
    record = pool_step.record()
    return context.step(
        f"rounds/{number:04d}/dev/select",
        settings=record["settings"],
        inputs={**record["inputs"], "rows": dev.justified.digest()},
        parts=dev.pool.parts,
    )


def _commit(
    context: Context,
    number: int,
    data: Data,
    step: Step,
    dev_step: Step | None,
    answered: Answered,
    dev: Answered | None,
    cuts: Cuts,
) -> None:
    if cuts.ties_points > TIES_WARNING_POINTS:
        context.progress.say(
            f"warning: ties at tau keep {cuts.ties_points:.1f} points more than theta; method.select.ties: exact "
            "breaks them by vote share, then id"
        )
    pool = totals_of(answered.justified, step, data.pool.gold, context.task, context.agreeing_path)
    metrics: dict[str, Any] = {
        "tau": cuts.cuts[""].tau if cuts.scope == "global" else None,
        "cuts": asdict(cuts),
        "num_answered": cuts.num_answered,
        "ties_points": cuts.ties_points,
        "num_accepted": pool.decided.get(Decision.ACCEPTED.value, (0, 0, 0))[0],
        "num_accepted_answers": len(pool.accepted) if context.task.is_closed else None,
    }
    metrics |= pseudo_label_metrics(pool.decided)
    fold = None
    if dev and dev_step and data.dev:
        commit(context, dev_step, {})
        metrics |= _dev_metrics(context, number, data, dev_step)
        fold = totals_of(dev.justified, dev_step, data.dev.gold, context.task, context.agreeing_path)
    metrics["audit"] = audit_round(answered.justified, pool, data.labeled, fold, context.task)
    commit(context, step, metrics)
    shown = {key: metrics[key] for key in ("tau", "num_accepted", "coverage", "precision_all", "precision_accepted")}
    context.trackers.log("select", shown, number)


def _judged(context: Context, number: int, data: Data, dev: Answered) -> Judged:
    """The answered rows of this round's slice of the dev fold, and which of them are right."""
    assert data.dev is not None
    gold, slices = _dev_gold(data), dev_slices(data.dev.rows, context.config.method.rounds.num)
    columns = ["id", "label", "confidence"]
    read = (r for part in dev.pool.parts for r in dev.justified.read_part(part, schema.JUSTIFIED, columns).to_pylist())
    rows = [row for row in read if slices[row["id"]] == number]
    known = [row for row in rows if row["confidence"] is not None]
    confidences = np.asarray([row["confidence"] for row in known], dtype=np.float32)
    return Judged(confidences, np.asarray(_right(context, known, gold), dtype=bool), len(rows))


def _right(context: Context, rows: Sequence[Mapping[str, Any]], gold: Mapping[str, str]) -> list[bool]:
    """Whether the label of each row is known to be right."""
    labels, golds = [row["label"] for row in rows], [gold[row["id"]] for row in rows]
    return known_right(labels, golds, context.task, context.agreeing_path)


def _dev_metrics(context: Context, number: int, data: Data, dev_step: Step) -> dict[str, int]:
    """Rows of this round's slice of the dev fold, those it would accept, and how many of these are right."""
    assert data.dev is not None
    gold, slices = _dev_gold(data), dev_slices(data.dev.rows, context.config.method.rounds.num)
    columns = ["id", "label", "decision"]
    read = (row for part in dev_step.parts for row in dev_step.read_part(part, schema.SELECTION, columns).to_pylist())
    rows = [row for row in read if slices[row["id"]] == number]
    accepted = [row for row in rows if row["decision"] == Decision.ACCEPTED.value]
    right = sum(_right(context, accepted, gold))
    return {"dev_rows": len(rows), "dev_accepted": len(accepted), "dev_right": right}


def _dev_precision(metrics: dict[str, Any]) -> float:
    """The share of accepted dev rows that are right; 0 where none was accepted."""
    return metrics["dev_right"] / metrics["dev_accepted"] if metrics["dev_accepted"] else 0.0


def _dev_gold(data: Data) -> dict[str, str]:
    assert data.dev is not None
    gold = data.dev.gold
    tables = (gold.read_part(part, schema.GOLD) for part in gold.parts)
    return {row["id"]: row["answer"] for table in tables for row in table.to_pylist()}


def _label_counts(labeled: Step) -> Counter[str]:
    tables = (labeled.read_part(part, schema.LABELED, ["answer"]) for part in labeled.parts)
    return Counter(answer for table in tables for answer in table.column("answer").to_pylist())
