"""What a person writes to describe a study: pydantic models, frozen, unknown keys refused; imports nothing heavy.

Invariant: names of variants are distinct, and every name that is mentioned is one of them.
"""

import difflib
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from semievol_ray.methodconfig import Fraction, Part
from semievol_ray.study.variants import BUILT_IN, SEVEN

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class VariantConfig(Part):
    """One variant; a bare name in YAML is a built-in one."""

    name: str = Field(pattern=_NAME)
    like: str = Field("semievol", description="the built-in variant it is made like")
    overrides: dict[str, Any] = Field(default_factory=dict, description="settings of the run laid over it")
    compare: tuple[str, ...] | None = Field(None, description="variants it is compared with, beside sft")

    @model_validator(mode="after")
    def _like_is_known(self) -> "VariantConfig":
        if self.like not in BUILT_IN:
            near = difflib.get_close_matches(self.like, BUILT_IN, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ValueError(f"there is no built-in variant {self.like!r}: {hint}they are {', '.join(BUILT_IN)}")
        return self


def _variant(value: Any) -> Any:
    if isinstance(value, str):
        return {"name": value, "like": value}
    if isinstance(value, dict) and "like" not in value and value.get("name") in BUILT_IN:
        return {"like": value["name"], **value}
    if not isinstance(value, dict | VariantConfig):
        raise ValueError(f"a name, or a mapping with a name, was expected, not {value!r}")
    return value


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if repeated := [str(v) for i, v in enumerate(values) if v in values[:i]]:
        raise ValueError(f"{', '.join(repeated)} occurs more than once")
    return values


class GridConfig(Part):
    """One setting at a time, changed from the base; each value is a variant made like semievol."""

    theta: Annotated[tuple[Fraction, ...], AfterValidator(_distinct)] = ()
    label_count: Annotated[tuple[PositiveInt, ...], AfterValidator(_distinct)] = Field(
        (), description="data.labeled.sample; each count gets an sft of its own"
    )
    pool_ratio: Annotated[tuple[PositiveFloat, ...], AfterValidator(_distinct)] = Field(
        (), description="data.unlabeled.sample, in rows per labeled row"
    )
    num_collaborators: Annotated[tuple[PositiveInt, ...], AfterValidator(_distinct)] = Field(
        (), description="so many of the base's first ones"
    )


class StudyConfig(Part):
    """One study, whole."""

    name: str = Field(pattern=_NAME)
    base: str | dict[str, Any] = Field(description="a run's YAML file, or what would stand in it")
    overrides: dict[str, Any] = Field(default_factory=dict, description="settings laid over the base in every variant")
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1), AfterValidator(_distinct)] = (
        0,
        1,
        2,
    )
    variants: Annotated[tuple[Annotated[VariantConfig, BeforeValidator(_variant)], ...], Field(min_length=1)] = Field(
        default_factory=lambda: tuple(VariantConfig(name=name, like=name) for name in SEVEN)
    )
    grid: GridConfig = GridConfig()

    @model_validator(mode="after")
    def _names_meet(self) -> "StudyConfig":
        names = tuple(v.name for v in self.variants)
        _distinct(names)
        if any(v.like == "sft_matched" for v in self.variants) and "semievol" not in names:
            raise ValueError("variants: sft_matched takes its number of steps from semievol, which is not listed")
        for v in self.variants:
            if unknown := [other for other in v.compare or () if other not in names]:
                raise ValueError(f"variants: {v.name} is compared with {', '.join(unknown)}, which is not listed")
        return self
