"""The table of a study: each variant over its seeds, against the labels alone, and against what is left to gain.

Invariant: seeds are pooled where both sides have them on the same test rows; a figure that is not known is None.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semievol_ray.core.headroom import head_room, share_closed
from semievol_ray.core.metrics import Interval, paired_difference
from semievol_ray.study.file import Study, Variant
from semievol_ray.study.result import Result
from semievol_ray.study.variants import Making

NO_HEAD_ROOM = "no head-room"


@dataclass(frozen=True)
class Outcome:
    """How one variant ended with one seed: a result, a reason why there is none, or both where a run stopped early."""

    variant: str
    seed: int
    result: Result | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Row:
    """One variant. Accuracies are fractions of 1, by seed; `deviation` is the sample standard deviation over seeds.

    gap: the share of the sft-to-oracle gap that is closed, NO_HEAD_ROOM where there is none to share, None where it is
    not known. Precisions, coverage, tokens and seconds are means over the seeds.
    """

    variant: str
    accuracies: Mapping[int, float]
    mean: float | None
    deviation: float | None
    against_sft: Interval | None
    gap: float | str | None
    precision_all: float | None
    precision_accepted: float | None
    coverage: float | None
    num_prompt_tokens: float | None
    num_tokens: float | None
    seconds: float | None
    roots: Mapping[int, str]
    reasons: Mapping[int, str]


@dataclass(frozen=True)
class Comparison:
    """accuracy(variant) - accuracy(other), paired over the test rows of the seeds both have."""

    variant: str
    other: str
    difference: Interval


@dataclass(frozen=True)
class StudyTable:
    """Everything a study shows. room: the sft-to-oracle gap; None without either."""

    name: str
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    room: Interval | None
    has_head_room: bool


def tabulate(study: Study, seeds: Sequence[int], outcomes: Sequence[Outcome]) -> StudyTable:
    """The table of the outcomes that there are, in the order of the study's variants."""
    found = {variant.name: [o for o in outcomes if o.variant == variant.name] for variant in study.variants}
    results = {name: {o.seed: o.result for o in ended if o.result} for name, ended in found.items()}
    pairs = [(v.name, other) for v in study.variants for other in v.compare]
    differences = [(a, b, _difference(results[a], results[b])) for a, b in pairs]
    oracle = _oracle(study, results)
    pooled = _pooled(oracle, results.get("sft", {}))
    room = head_room(*pooled) if pooled else None
    return StudyTable(
        name=study.name,
        seeds=tuple(seeds),
        rows=tuple(_row(v, found[v.name], results, oracle) for v in study.variants),
        comparisons=tuple(Comparison(a, b, interval) for a, b, interval in differences if interval),
        room=room.gap if room else None,
        has_head_room=bool(room and room.exists),
    )


def _row(
    variant: Variant,
    ended: Sequence[Outcome],
    results: Mapping[str, Mapping[int, Result]],
    oracle: Mapping[int, Result],
) -> Row:
    own = results[variant.name]
    listed, sft = list(own.values()), results.get(variant.sft, {})
    accuracies = {seed: result.accuracy for seed, result in own.items()}
    return Row(
        variant=variant.name,
        accuracies=accuracies,
        mean=statistics.fmean(accuracies.values()) if accuracies else None,
        deviation=statistics.stdev(accuracies.values()) if len(accuracies) > 1 else None,
        against_sft=_difference(own, sft) if variant.name != variant.sft else None,
        gap=_gap(own, sft, oracle) if variant.sft == "sft" and variant.making is Making.ROUNDS else None,
        precision_all=_mean([r.precision_all for r in listed]),
        precision_accepted=_mean([r.precision_accepted for r in listed]),
        coverage=_mean([r.coverage for r in listed]),
        num_prompt_tokens=_mean([r.num_prompt_tokens for r in listed]),
        num_tokens=_mean([r.num_tokens for r in listed]),
        seconds=_mean([r.seconds for r in listed]),
        roots={seed: result.root for seed, result in own.items()},
        reasons={o.seed: o.reason for o in ended if o.reason},
    )


def _gap(own: Mapping[int, Result], sft: Mapping[int, Result], oracle: Mapping[int, Result]) -> float | str | None:
    """The share of the gap that is closed, on the seeds that all three have."""
    there = {seed: result for seed, result in own.items() if seed in sft and seed in oracle}
    pooled, gain = _pooled({s: oracle[s] for s in there}, sft), _difference(there, sft)
    if pooled is None or gain is None:
        return None
    share = share_closed(head_room(*pooled), gain.value)
    return NO_HEAD_ROOM if share is None else share


def _oracle(study: Study, results: Mapping[str, Mapping[int, Result]]) -> Mapping[int, Result]:
    name = next((v.name for v in study.variants if v.making is Making.GOLD), "")
    return results.get(name, {})


def _difference(a: Mapping[int, Result], b: Mapping[int, Result]) -> Interval | None:
    pooled = _pooled(a, b)
    return paired_difference(*pooled) if pooled else None


def _pooled(
    a: Mapping[int, Result], b: Mapping[int, Result]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], list[str]] | None:
    """Right or wrong of both on the test rows of every seed that both have, one seed after the other; the rows' ids."""
    both = [seed for seed in sorted(a) if seed in b and a[seed].test == b[seed].test]
    if not both:
        return None
    left, right = (np.concatenate([side[seed].correct for seed in both]) for side in (a, b))
    return left, right, [question for seed in both for question in a[seed].questions]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
