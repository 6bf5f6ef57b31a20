"""The algorithm's settings as a person writes them (method.md); imports nothing heavy.

Invariant: every model here is fingerprinted: it changes what a step outputs.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

Fraction = Annotated[float, Field(gt=0, le=1)]
Proportion = Annotated[float, Field(gt=0, lt=1)]

EXACT_ONLY = frozenset({"mean_nll", "answer_nll"})
"""Estimators that read M_warm's own justification, so that every row needs one."""


class Part(BaseModel):
    """A part of the configuration: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class SamplingConfig(Part):
    """How a collaborator samples; vLLM's names."""

    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, description="0 considers every token")
    max_tokens: int | None = Field(None, gt=0, description="the task's when absent")
    stop: tuple[str, ...] | None = Field(
        None, description="strings before which a draft ends; vLLM's name, and an endpoint's"
    )
    structured: Literal["choice"] | None = Field(
        None,
        description="choice: every draft is one of the task's answers (choice and labels tasks, vLLM alone) and has no "
        "mean_nll, which a mask would renormalise; confidence is the justification's, which stays free and raw",
    )

    @field_validator("stop")
    @classmethod
    def _stop_is_something(cls, stop: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if stop is not None and not all(stop):
            raise ValueError("a stop string may not be empty")
        return stop or None


class EndpointConfig(Part):
    """An OpenAI-compatible server that the user already runs or pays; keys come from the environment alone."""

    url: str = Field(pattern=r"^https?://", description="up to and with /v1")
    api_key_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="variable with the key")
    requests_per_minute: float | None = Field(None, gt=0, description="no limit of our own when absent")
    max_concurrency: int = Field(16, gt=0)
    timeout_seconds: float = Field(120.0, gt=0)
    max_retries: int = Field(6, ge=0, description="of a request that was refused, failed or timed out")
    prompt_price: float = Field(0.0, ge=0, description="money per million prompt tokens")
    completion_price: float = Field(0.0, ge=0, description="money per million generated tokens")

    @property
    def address(self) -> str:
        """The URL without user, password and query: what may be shown and recorded."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def asked_as(self) -> str:
        """All that decides how it is asked: with another key or limit it is another. Prices are the asker's own."""
        return self.model_dump_json(exclude={"prompt_price", "completion_price"})


class CollaboratorConfig(Part):
    """One of the n configured models that answer together."""

    name: str = Field("", pattern=r"^[a-z0-9_]*$")
    model: str | None = Field(None, description="the student when absent; the served name behind an endpoint")
    adapter: Literal["none", "warm"] = "none"
    demonstrations: int = Field(0, ge=0, le=32)
    instruction: str | None = Field(None, description="the task's when absent")
    sampling: SamplingConfig = SamplingConfig()
    endpoint: EndpointConfig | None = None

    @model_validator(mode="after")
    def _endpoint_is_bare(self) -> "CollaboratorConfig":
        if self.endpoint and self.adapter == "warm":
            raise ValueError("an endpoint serves no adapter of this run: adapter: none")
        if self.endpoint and self.sampling.structured:
            raise ValueError("sampling.structured is for the run's own engines; an endpoint is asked without it")
        if self.endpoint and not self.model:
            raise ValueError("an endpoint needs model: the name under which it serves it")
        return self


def endpoint_called(collaborators: Sequence[CollaboratorConfig], model: str, endpoint: EndpointConfig) -> str:
    """The served model, and whose it is first where several collaborators ask for that name in different ways."""
    asked = [(o.name, o.endpoint.asked_as) for o in collaborators if o.endpoint and o.model == model]
    first = next((name for name, how in asked if how == endpoint.asked_as), "")
    return f"{model} ({first})" if len({how for _, how in asked}) > 1 else model


def _named(collaborators: tuple[CollaboratorConfig, ...]) -> tuple[CollaboratorConfig, ...]:
    """Give each collaborator without a name one that says what it is: base_3, warm_0, warm_0_2 ..."""
    named: list[CollaboratorConfig] = []
    for c in collaborators:
        kind = "api" if c.endpoint else "warm" if c.adapter == "warm" else "base"
        stem = c.name or f"{kind}_{c.demonstrations}"
        taken = [d.name for d in named]
        if c.name and c.name in taken:
            raise ValueError(f"two collaborators are named {c.name!r}")
        name = next(n for n in [stem, *(f"{stem}_{i}" for i in range(2, 99))] if n not in taken)
        named.append(c.model_copy(update={"name": name}))
    return tuple(named)


def _paper_four() -> tuple[CollaboratorConfig, ...]:
    pairs: list[tuple[Literal["none", "warm"], int]] = [("none", 1), ("none", 3), ("warm", 0), ("warm", 3)]
    return _named(tuple(CollaboratorConfig(adapter=a, demonstrations=k) for a, k in pairs))


class JustifyConfig(Part):
    """M_warm sees the question and the drafts' answers and answers again, greedily (eq. 5).

    `split` asks only where the drafts do not all agree, `never` takes the vote.
    """

    when: Literal["always", "split", "never"] = "always"
    max_tokens: int | None = Field(None, gt=0, description="the task's when absent")


class RoundsConfig(Part):
    """How often to go round; a bare number in YAML is `num`."""

    num: int = Field(1, ge=1, le=100)
    reanswer: Literal["rejected", "all"] = Field("rejected", description="all may demote what was accepted")
    threshold: Literal["percentile", "ceiling"] = Field("percentile", description="ceiling: never above round 1's tau")
    patience: int | None = Field(
        None, ge=1, description="rounds without a better data.validation accuracy before stopping"
    )


def _rounds(value: Any) -> Any:
    return {"num": value} if isinstance(value, int) and not isinstance(value, bool) else value


class RetrievalConfig(Part):
    """What demonstrations are drawn from."""

    pool: Literal["labeled", "labeled+accepted"] = "labeled"
    accepted_per_label: int = Field(64, gt=0, description="most pseudo-labelled rows of one label in the pool")
    index: Literal["auto", "flat", "hnsw", "ivf"] = Field(
        "auto", description="auto is exact (flat) below 100,000 rows that may be shown; the others are approximate"
    )


class PercentileConfig(Part):
    """The paper's rule: the theta surest share of the rows answered in the round."""

    rule: Literal["percentile"] = "percentile"
    theta: Fraction = 0.5
    scope: Literal["global", "per_answer", "per_group"] = "global"
    ties: Literal["all", "exact"] = Field("all", description="exact: ties at tau go by vote share, then id")
    quota: float | None = Field(
        None, ge=1, description="an answer's share of the accepted at most this times its share of the labels"
    )


class PrecisionBoundConfig(Part):
    """The largest threshold whose precision on the round's dev slice is certified to be at least the target."""

    rule: Literal["precision_bound"]
    target_precision: Proportion = 0.9
    level: Proportion = Field(0.95, description="of the one-sided Clopper-Pearson bound")
    num_thresholds: int = Field(20, ge=1, le=1000)
    quota: float | None = Field(None, ge=1)


class FdrConfig(Part):
    """Conformal p-values against the dev slice's wrong rows, Benjamini-Hochberg at the target share of wrong labels."""

    rule: Literal["fdr"]
    target_error: Proportion = 0.1
    quota: float | None = Field(None, ge=1)


SelectConfig = Annotated[PercentileConfig | PrecisionBoundConfig | FdrConfig, Field(discriminator="rule")]


def _select(value: Any) -> Any:
    """`rule` may be left out: a mapping without it is the paper's."""
    return {"rule": "percentile", **value} if isinstance(value, dict) else value


Confidence = Literal["mean_nll", "answer_nll", "scored_nll", "vote_entropy", "answer_posterior"]


class MethodConfig(Part):
    """The algorithm, whole."""

    rounds: Annotated[RoundsConfig, BeforeValidator(_rounds)] = RoundsConfig()
    warm_up: bool = Field(True, description="false: M_base stands in for M_warm in round 1 (an ablation)")
    warm_adapter: str | None = Field(None, description="a LoRA folder to use as M_warm in place of the warm-up")
    embedder: str = Field("all-minilm-l6-v2", description="a sentence-transformers model, or 'hash'")
    retrieval: RetrievalConfig = RetrievalConfig()
    collaborators: Annotated[tuple[CollaboratorConfig, ...], Field(min_length=1), AfterValidator(_named)] = Field(
        default_factory=_paper_four
    )
    justify: JustifyConfig = JustifyConfig()
    confidence: Confidence = "mean_nll"
    select: Annotated[SelectConfig, BeforeValidator(_select)] = PercentileConfig()

    @model_validator(mode="after")
    def _one_quantity(self) -> "MethodConfig":
        if self.justify.when != "always" and self.confidence in EXACT_ONLY:
            raise ValueError(
                f"confidence {self.confidence} reads the justification of every row; justify.when {self.justify.when} "
                "does not justify every row. Use confidence: scored_nll (or vote_entropy), or justify.when: always"
            )
        if self.rounds.threshold == "ceiling" and self.select.rule != "percentile":
            raise ValueError(f"rounds.threshold: ceiling belongs to select.rule percentile, not to {self.select.rule}")
        return self

    @model_validator(mode="after")
    def _warm_needs_warm_up(self) -> "MethodConfig":
        if self.warm_up:
            return self
        if self.warm_adapter:
            raise ValueError("warm_adapter and warm_up: false contradict each other; leave one out")
        if named := [c.name for c in self.collaborators if c.adapter == "warm"]:
            raise ValueError(f"warm_up: false leaves no adapter for {', '.join(named)}; give them adapter: none")
        return self

    @property
    def num_demonstrations(self) -> int:
        """k: the most demonstrations any collaborator shows."""
        return max(c.demonstrations for c in self.collaborators)


def slug(name: str) -> str:
    """A model's name as a folder name."""
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name).strip(".-")
