"""Where a round cuts: its rule over the confidences of all its rows, and over its dev slice where it is calibrated.

Invariant: one float32 a row is all that reaches the driver; ties.py says what does of ties, where they are broken.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semievol_ray.core import calibration
from semievol_ray.core.deciding import DECISIONS, Coded
from semievol_ray.core.selection import Cut, Decision, lowered, percentile_cuts, quota_cuts, tied_room, ties_excess
from semievol_ray.errors import NothingAcceptedError
from semievol_ray.methodconfig import FdrConfig, PercentileConfig, PrecisionBoundConfig
from semievol_ray.stages.cluster import map_parts
from semievol_ray.stages.columns import coded, floats, known
from semievol_ray.stages.select import Answered, Cuts, Scope, decided, keyed
from semievol_ray.stages.ties import break_ties

TIES_WARNING_POINTS = 5.0
Rule = PercentileConfig | PrecisionBoundConfig | FdrConfig
Values = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Judged:
    """The dev slice of a round: H of each answered row (float32), and whether its label is right."""

    confidences: NDArray[np.float32]
    correct: NDArray[np.bool_]
    num_rows: int


def choose_cuts(
    answered: Answered,
    rule: Rule,
    *,
    judged: Judged | None = None,
    ceiling: Cuts | None = None,
    label_counts: Mapping[str, int] | None = None,
) -> Cuts:
    """The round's cuts by its rule (method.md: Threshold, Calibrated selection).

    `judged` is the round's dev slice (calibrated rules), `ceiling` round 1's cuts, `label_counts` the labels of D_L
    (quotas). Raises NothingAcceptedError when no row has a confidence or the rule certifies no threshold.
    """
    scope: Scope = rule.scope if isinstance(rule, PercentileConfig) else "global"
    values = _confidences(answered, scope)
    cuts = _cuts_of(answered, rule, scope, values, judged)
    if ceiling:  # its tau only: where round 1 broke ties says nothing of this round's rows
        most = {key: Cut(cut.tau) for key, cut in ceiling.cuts.items()}
        cuts = replace(cuts, cuts=lowered(cuts.cuts, most))
    if rule.quota is not None and label_counts:
        kept = _kept_by_label(answered, cuts)
        cuts = replace(cuts, quotas=quota_cuts(kept, label_counts, rule.quota))
    return cuts


def _cuts_of(answered: Answered, rule: Rule, scope: Scope, values: Values, judged: Judged | None) -> Cuts:
    num_answered = sum(v.size for v in values.values())
    match rule:
        case PercentileConfig():
            cuts = percentile_cuts(values, rule.theta)
            if rule.ties == "exact":
                rooms = {key: tied_room(values[key], rule.theta) for key in cuts}
                cuts = break_ties(answered, scope, cuts, rooms)
            kept = sum(round(ties_excess(values[k], 0.0, c.tau) / 100 * values[k].size) for k, c in cuts.items())
            points = 0.0 if rule.ties == "exact" else 100 * (kept / num_answered - rule.theta)
            return Cuts(scope, cuts, {}, num_answered, points)
        case PrecisionBoundConfig():
            assert judged is not None
            tau, certificate = _certified(rule, values[""], judged)
        case FdrConfig():
            assert judged is not None
            tau, certificate = _error_controlled(rule, values[""], judged)
    return Cuts(scope, {"": Cut(tau)}, {}, num_answered, 0.0, certificate)


def _certified(
    rule: PrecisionBoundConfig, values_R: NDArray[np.float32], judged: Judged
) -> tuple[float, dict[str, Any]]:
    taus_T = calibration.candidate_taus(
        values_R, judged.confidences.size, rule.num_thresholds, rule.target_precision, rule.level
    )
    found = calibration.precision_bound(judged.confidences, judged.correct, taus_T, rule.target_precision, rule.level)
    if found is None:
        raise NothingAcceptedError(
            f"no threshold is certified to reach precision {rule.target_precision:g} at {100 * rule.level:g}% "
            f"confidence on the {judged.confidences.size} answered rows of the round's dev slice: nothing is accepted. "
            "Lower method.select.target_precision, hold out more rows under data.dev, or stop here."
        )
    return found.tau, {
        "rule": rule.rule,
        "num_dev": judged.num_rows,
        "num_dev_accepted": found.num_rows,
        "num_dev_right": found.num_correct,
        "lower_bound": found.lower_bound,
        "assumption": _assumption("the dev slice and the rows answered this round are exchangeable", rule.quota),
    }


def _error_controlled(rule: FdrConfig, values_R: NDArray[np.float32], judged: Judged) -> tuple[float, dict[str, Any]]:
    wrong_W = judged.confidences[~judged.correct]
    tau = calibration.fdr_threshold(wrong_W, judged.confidences.size, values_R, rule.target_error)
    if tau is None:
        raise NothingAcceptedError(
            f"no threshold keeps the expected share of wrong labels below {rule.target_error:g} given the "
            f"{wrong_W.size} wrong of {judged.confidences.size} answered rows of the dev slice: nothing is accepted. "
            "Raise method.select.target_error, hold out more rows under data.dev, or stop here."
        )
    return tau, {
        "rule": rule.rule,
        "num_dev": judged.num_rows,
        "num_dev_wrong": int(wrong_W.size),
        "assumption": _assumption(
            "the dev slice and the rows answered this round are exchangeable, right and wrong alike: the share of "
            "wrong rows is the slice's too",
            rule.quota,
        ),
    }


def _assumption(exchangeable: str, quota: float | None) -> str:
    """What a certificate stands on; a quota takes rows away afterwards."""
    return exchangeable if quota is None else f"{exchangeable}; it speaks of the rows before the quota took some away"


def _confidences(answered: Answered, scope: Scope) -> Values:
    """H of every row that has one, by scope key; the one thing of the driver's that grows with the rows."""
    found = _merged(map_parts(_confidences_part, answered.justified.parts, answered=answered, scope=scope))
    if not found:
        raise NothingAcceptedError(
            f"{answered.justified.path}: no row has a confidence, so none can be accepted. Look at a row with "
            "`semievol explain`: the answers may be unreadable, or cut off at max_tokens."
        )
    return found


def _kept_by_label(answered: Answered, cuts: Cuts) -> Values:
    """H of the rows that pass the cuts, by label."""
    return _merged(map_parts(_kept_part, answered.justified.parts, answered=answered, cuts=cuts))


def _merged(parts: Iterable[Mapping[str, Any]]) -> Values:
    """The values of all parts by key."""
    gathered: dict[str, list[NDArray[np.float32]]] = {}
    for row in parts:
        ends = np.cumsum(np.asarray(row["lengths"], dtype=np.int64))
        values = np.split(np.frombuffer(row["values"], dtype=np.float32), ends[:-1]) if len(ends) else []
        for key, of_key in zip(row["keys"], values, strict=True):
            gathered.setdefault(str(key), []).append(of_key)
    return {key: np.concatenate(gathered.pop(key)) for key in sorted(gathered)}


def _flat(keys: Coded, values_R: NDArray[np.float32], which_R: NDArray[np.bool_]) -> dict[str, Any]:
    """What a worker returns of some rows: the keys that they have, how many have each, and the values key by key."""
    codes, values = keys.codes[which_R], values_R[which_R]
    found, lengths = np.unique(codes, return_counts=True)
    return {
        "keys": [keys.values[code] for code in found],
        "lengths": lengths.tolist(),
        "values": values[np.argsort(codes, kind="stable")].tobytes(),
    }


def _confidences_part(item: dict[str, Any], answered: Answered, scope: Scope) -> dict[str, Any]:
    table, keys = keyed(answered, item["part"], scope, ["confidence"])
    column = table.column("confidence")
    return _flat(keys, floats(column), known(column))


def _kept_part(item: dict[str, Any], answered: Answered, cuts: Cuts) -> dict[str, Any]:
    table, found = decided(answered, item["part"], cuts)
    accepted_R = found.codes == DECISIONS.index(Decision.ACCEPTED)
    return _flat(coded(table.column("label")), floats(table.column("confidence")), accepted_R)
