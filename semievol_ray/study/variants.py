"""The variants a study can name: what each changes in a run's configuration, and how its model is made.

Invariant: a variant is a whole `RunConfig`, so that what it shares with another is decided by fingerprints alone.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from semievol_ray import configfile
from semievol_ray.config import RunConfig
from semievol_ray.errors import ConfigError
from semievol_ray.methodconfig import PercentileConfig

_GIVEN_NAME = re.compile(r"(api|base|warm)_\d+(_\d+)?")
_EVERYTHING = PercentileConfig(theta=1.0).model_dump(mode="json")
_NO_FLOOR = {"min_precision": None}


class Making(StrEnum):
    """How the model that a variant evaluates comes to be."""

    UNTOUCHED = "untouched"
    LABELS = "labels"
    ROUNDS = "rounds"
    MATCHED = "matched"
    GOLD = "gold"


@dataclass(frozen=True)
class BuiltIn:
    """A variant that a study can name. changes: base -> settings laid over it, a mapping as in the YAML file."""

    making: Making
    about: str
    changes: Callable[[RunConfig], dict[str, Any]] = lambda base: {}  # noqa: ARG005


def varied(base: RunConfig, changes: Mapping[str, Any], origin: str) -> RunConfig:
    """The base with a mapping (dotted keys or nested) laid over it; ConfigError naming `origin` and the wrong key."""
    try:
        tree = laid_over(base.model_dump(mode="json"), changes)
    except ValueError as error:
        raise ConfigError(f"{origin}: {error}.") from None
    return configfile.parse(tree, origin)


def laid_over(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A new tree with `changes` in it, mappings merged, all else replaced; a mapping of another `rule` is replaced.

    Raises ValueError for a dotted key into a list or a plain value.
    """
    laid = dict(tree)
    for key, value in changes.items():
        name, _, rest = key.partition(".")
        new, old = ({rest: value} if rest else value), laid.get(name)
        if rest and not isinstance(old, Mapping | None):
            raise ValueError(f"{key}: {name} is no mapping to reach into; give the whole value of {name}")
        merges = isinstance(new, Mapping) and (rest or _merge(old, new))
        laid[name] = laid_over(old or {}, new) if merges else new
    return laid


def _merge(old: Any, new: Mapping[str, Any]) -> bool:
    return isinstance(old, Mapping) and new.get("rule") in (None, old.get("rule"))


def _collaborators(base: RunConfig, **changes: Any) -> list[dict[str, Any]]:
    """The base's collaborators with some settings changed; names the configuration had given them are given anew."""
    listed = (c.model_dump(mode="json") for c in base.method.collaborators)
    return [{**c, "name": "" if _GIVEN_NAME.fullmatch(c["name"]) else c["name"], **changes} for c in listed]


def _alone(base: RunConfig) -> dict[str, Any]:  # noqa: ARG001
    """One model labels by itself: M_warm, greedy, the question only, no justification; H of the answer as text.

    It has its warm-up where the base does without.
    """
    alone = {"adapter": "warm", "demonstrations": 0, "sampling": {"temperature": 0.0}}
    method = {"warm_up": True, "collaborators": [alone], "justify": {"when": "never"}, "confidence": "scored_nll"}
    return {"method": method, "guard": _NO_FLOOR}


def _naive(base: RunConfig) -> dict[str, Any]:
    """Everything M_warm can answer becomes a label, once: a second round would find nothing left."""
    return laid_over(_alone(base), {"method": {"select": _EVERYTHING, "rounds": _one_round()}})


def _without_in_weight(base: RunConfig) -> dict[str, Any]:
    """No warm-up, nor an adapter in its place: M_base drafts, justifies and gives H, and no weights bring labels in.

    Demonstrations and sampling stay each collaborator's own.
    """
    alone = {"warm_up": False, "warm_adapter": None}
    return {"method": {"collaborators": _collaborators(base, adapter="none"), **alone}}


def _without_in_context(base: RunConfig) -> dict[str, Any]:
    return {"method": {"collaborators": _collaborators(base, demonstrations=0)}}


def _without_collaboration(base: RunConfig) -> dict[str, Any]:
    """The first warm collaborator drafts alone, as it is; the first of all where none is warm."""
    listed = [c.model_dump(mode="json") for c in base.method.collaborators]
    return {"method": {"collaborators": [next((c for c in listed if c["adapter"] == "warm"), listed[0])]}}


def _without_selection(base: RunConfig) -> dict[str, Any]:  # noqa: ARG001
    return {"method": {"select": _EVERYTHING, "rounds": _one_round()}, "guard": _NO_FLOOR}


def _one_round() -> dict[str, Any]:
    return {"num": 1, "threshold": "percentile"}


BUILT_IN: dict[str, BuiltIn] = {
    "vanilla": BuiltIn(Making.UNTOUCHED, "the model as it came"),
    "sft": BuiltIn(Making.LABELS, "fine-tuned on the labels alone"),
    "semievol": BuiltIn(Making.ROUNDS, "the method as the base configuration has it"),
    "sft_matched": BuiltIn(Making.MATCHED, "labels alone, for as many optimizer steps as semievol's last fine-tuning"),
    "naive": BuiltIn(Making.ROUNDS, "every pseudo-label of the warmed-up model alone", _naive),
    "confidence": BuiltIn(Making.ROUNDS, "the same model alone, with semievol's filter", _alone),
    "oracle": BuiltIn(Making.GOLD, "the labels and the gold answers of the whole pool"),
    "without_in_weight": BuiltIn(Making.ROUNDS, "no warm-up: M_base in M_warm's place", _without_in_weight),
    "without_in_context": BuiltIn(Making.ROUNDS, "no collaborator sees demonstrations", _without_in_context),
    "without_collaboration": BuiltIn(Making.ROUNDS, "one collaborator, the first warm one", _without_collaboration),
    "without_selection": BuiltIn(Making.ROUNDS, "every readable pseudo-label is kept", _without_selection),
}
"""In the order in which a study does them: cheap ones first, and what others need before those."""

SEVEN = ("vanilla", "sft", "sft_matched", "naive", "confidence", "semievol", "oracle")
