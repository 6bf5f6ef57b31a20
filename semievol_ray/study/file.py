"""Reads a study file: a base configuration, variants and a grid around it, seeds; every mistake is one `ConfigError`.

Invariant: whatever a study will do is known, and checked, before it does anything.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from semievol_ray import configfile
from semievol_ray.config import RunConfig
from semievol_ray.configerrors import sentences
from semievol_ray.errors import ConfigError
from semievol_ray.study.settings import StudyConfig, VariantConfig
from semievol_ray.study.variants import BUILT_IN, Making, varied

_COMPARED = {"semievol": ("sft_matched", "naive", "confidence")}


@dataclass(frozen=True)
class Variant:
    """One row of the study's table. sft: the labels-only variant it is measured against; compare: further ones."""

    name: str
    making: Making
    config: RunConfig
    sft: str
    compare: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """A study ready to be done; its variants in the order of the table."""

    name: str
    seeds: tuple[int, ...]
    variants: tuple[Variant, ...]


def load(path: str) -> Study:
    """The study in a YAML file; relative paths in it are relative to its folder. Raises ConfigError."""
    tree = configfile.read_mapping(path, "study")
    try:
        config = StudyConfig.model_validate(tree)
    except ValidationError as error:
        wrong = [f"{path}: {text}" for _, text in sentences(StudyConfig, error.errors())]
        several = [f"{len(wrong)} settings are wrong:", *(f"  {line}" for line in wrong)]
        raise ConfigError("\n".join(several) if len(wrong) > 1 else f"{wrong[0]}.") from None
    base = _base(config, path)
    listed = [_listed(v, config, base, path) for v in config.variants] + _grid(config, base, path)
    return Study(config.name, config.seeds, tuple(listed))


def _base(config: StudyConfig, path: str) -> RunConfig:
    folder = Path(path).resolve().parent
    if isinstance(config.base, str):
        base = configfile.load(str(folder / config.base))
    else:
        base = configfile.parse(configfile.anchored({"name": config.name, **config.base}, folder), f"{path}: base")
    base = varied(base, config.overrides, f"{path}: overrides") if config.overrides else base
    if base.data.test is None:
        raise ConfigError(f"{path}: base: data.test is missing; a study compares accuracies on a test split.")
    return base


def _listed(v: VariantConfig, study: StudyConfig, base: RunConfig, path: str) -> Variant:
    origin, built_in = f"{path}: variant {v.name}", BUILT_IN[v.like]
    config = varied(varied(base, built_in.changes(base), origin), v.overrides, origin)
    there = [other.name for other in study.variants]
    compare = v.compare if v.compare is not None else _COMPARED.get(v.name, () if v.name in BUILT_IN else ("semievol",))
    return Variant(v.name, built_in.making, config, "sft", tuple(name for name in compare if name in there))


def _grid(study: StudyConfig, base: RunConfig, path: str) -> list[Variant]:
    grid = study.grid
    points: list[tuple[str, dict[str, Any]]] = []
    points += [(f"theta-{theta:g}", {"method.select": _with_theta(base, theta, path)}) for theta in grid.theta]
    points += [(f"labels-{count}", {"data.labeled.sample": count}) for count in grid.label_count]
    points += [
        (f"pool-{ratio:g}", {"data.unlabeled.sample": _pool_rows(base, ratio, path)}) for ratio in grid.pool_ratio
    ]
    points += [(f"collaborators-{n}", {"method.collaborators": _first(base, n, path)}) for n in grid.num_collaborators]
    found = []
    for what, changes in points:
        config = varied(base, changes, f"{path}: grid, {what}")
        sft = f"sft-{what}" if what.startswith("labels-") else "sft"
        found += [Variant(sft, Making.LABELS, config, sft)] if sft != "sft" else []
        found.append(Variant(f"semievol-{what}", Making.ROUNDS, config, sft))
    return found


def _with_theta(base: RunConfig, theta: float, path: str) -> dict[str, Any]:
    if base.method.select.rule != "percentile":
        raise ConfigError(f"{path}: grid.theta needs select.rule percentile, not {base.method.select.rule}.")
    return {**base.method.select.model_dump(mode="json"), "theta": theta}


def _pool_rows(base: RunConfig, ratio: float, path: str) -> int:
    if base.data.labeled.sample is None:
        raise ConfigError(f"{path}: grid.pool_ratio is in rows per labeled row: give the base a data.labeled.sample.")
    return max(1, round(ratio * base.data.labeled.sample))


def _first(base: RunConfig, num: int, path: str) -> list[dict[str, Any]]:
    there = base.method.collaborators
    if num > len(there):
        raise ConfigError(f"{path}: grid.num_collaborators {num} is more than the {len(there)} of the base.")
    return [c.model_dump(mode="json") for c in there[:num]]
