"""What a person writes to describe a run: pydantic models, frozen, unknown keys refused; imports nothing heavy.

Invariant: `MethodConfig`, `TrainConfig` and `NumericsConfig` are fingerprinted (they change what a step outputs),
`SpeedConfig` never is (going from 1 to 64 GPUs invalidates nothing).
"""

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from semievol_ray import tasks
from semievol_ray.core.answers import Choice, Labels, Number
from semievol_ray.errors import ConfigError

Fraction = Annotated[float, Field(gt=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Source(_Part):
    """One input file (csv, jsonl or parquet); a bare string in YAML is its path."""

    path: str
    sample: int | None = Field(None, gt=0, description="rows to draw, by a hash of (run seed, row); all when absent")


def _source(value: Any) -> Any:
    if isinstance(value, str | Path):
        return {"path": value}
    if not isinstance(value, dict | Source):
        raise ValueError(f"a path, or a mapping with a path, was expected, not {value!r}")
    return value


SourceField = Annotated[Source, BeforeValidator(_source)]


def _date_text(value: Any) -> Any:
    """YAML reads a bare 2024-07-26 as a date."""
    return value.isoformat() if isinstance(value, date) else value


def _known_task(value: "str | TaskConfig") -> "str | TaskConfig":
    try:
        return tasks.builtin(value).name if isinstance(value, str) else value
    except ConfigError as error:
        raise ValueError(str(error)) from None


class ColumnsConfig(_Part):
    """Names of the columns in the data files, where they are not the task's own."""

    question: str | None = None
    options: str | None = None
    answer: str | None = None
    group: str | None = None


class DataConfig(_Part):
    """The labeled rows D_L, the unlabeled pool D_U and the test split."""

    labeled: SourceField
    unlabeled: SourceField
    test: SourceField | None = None
    columns: ColumnsConfig = ColumnsConfig()


class TaskConfig(_Part):
    """A task described in YAML: what is asked, and how an answer is read."""

    name: str
    kind: Literal["labels", "choice", "number"]
    instruction: str
    labels: tuple[str, ...] = ()
    relative_tolerance: float = Field(0.0, ge=0)
    answer_template: str = "Answer: {answer}"
    options_first: bool = False
    max_tokens: int = Field(64, gt=0)

    @model_validator(mode="after")
    def _complete(self) -> "TaskConfig":
        if self.kind == "labels" and len(set(self.labels)) < 2:
            raise ValueError("a task of kind labels needs at least two different labels")
        if self.kind != "labels" and self.labels:
            raise ValueError(f"labels belong to kind labels, not to {self.kind}")
        if "{answer}" not in self.answer_template:
            raise ValueError("answer_template has to contain {answer}")
        return self


class SamplingConfig(_Part):
    """How a collaborator samples; vLLM's names."""

    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, description="0 considers every token")
    max_tokens: int | None = Field(None, gt=0, description="the task's when absent")


class CollaboratorConfig(_Part):
    """One of the n configured models that answer together."""

    name: str = Field("", pattern=r"^[a-z0-9_]*$")
    model: str | None = Field(None, description="the student when absent")
    adapter: Literal["none", "warm"] = "none"
    demonstrations: int = Field(0, ge=0, le=32)
    sampling: SamplingConfig = SamplingConfig()


def _named(collaborators: tuple[CollaboratorConfig, ...]) -> tuple[CollaboratorConfig, ...]:
    """Give each collaborator without a name one that says what it is: base_3, warm_0, warm_0_2 ..."""
    named: list[CollaboratorConfig] = []
    for c in collaborators:
        stem = c.name or f"{'warm' if c.adapter == 'warm' else 'base'}_{c.demonstrations}"
        taken = [d.name for d in named]
        if c.name and c.name in taken:
            raise ValueError(f"two collaborators are named {c.name!r}")
        name = next(n for n in [stem, *(f"{stem}_{i}" for i in range(2, 99))] if n not in taken)
        named.append(c.model_copy(update={"name": name}))
    return tuple(named)


def _paper_four() -> tuple[CollaboratorConfig, ...]:
    pairs: list[tuple[Literal["none", "warm"], int]] = [("none", 1), ("none", 3), ("warm", 0), ("warm", 3)]
    return _named(tuple(CollaboratorConfig(adapter=a, demonstrations=k) for a, k in pairs))


class JustifyConfig(_Part):
    """M_warm sees the question and the drafts' answers and answers again, greedily (eq. 5)."""

    when: Literal["always"] = "always"
    max_tokens: int | None = Field(None, gt=0, description="the task's when absent")


class MethodConfig(_Part):
    """The algorithm's settings (method.md); fingerprinted."""

    rounds: int = Field(1, ge=1, le=1, description="this version does one")
    embedder: str = Field("all-minilm-l6-v2", description="a sentence-transformers model, or 'hash'")
    collaborators: Annotated[tuple[CollaboratorConfig, ...], Field(min_length=1), AfterValidator(_named)] = Field(
        default_factory=_paper_four
    )
    justify: JustifyConfig = JustifyConfig()
    confidence: Literal["mean_nll", "answer_nll", "vote_entropy"] = "mean_nll"
    theta: Fraction = 0.5

    @property
    def num_demonstrations(self) -> int:
        """k: the most demonstrations any collaborator shows."""
        return max(c.demonstrations for c in self.collaborators)


class TrainConfig(_Part):
    """Fine-tuning settings under their Hugging Face names; fingerprinted."""

    learning_rate: float = Field(1e-4, gt=0)
    num_train_epochs: float = Field(2.0, gt=0)
    train_batch_size: int = Field(8, gt=0, description="examples per optimizer step over all workers")
    lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    lora_r: int = Field(16, gt=0)
    lora_alpha: int = Field(32, gt=0)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str | tuple[str, ...] = "all-linear"
    pseudo_label_weight: float = Field(1.0, gt=0, description="weight of a pseudo-labelled example's loss; gold is 1")


class NumericsConfig(_Part):
    """What changes the numbers a model returns; fingerprinted."""

    engine: Literal["vllm", "transformers", "scripted"] = "vllm"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    adapter_serving: Literal["auto", "merged", "dynamic"] = "auto"
    max_model_len: int = Field(2048, gt=0)
    quantization: str | None = None
    train_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    template_date: Annotated[str, BeforeValidator(_date_text)] = Field(
        "2024-07-26", description="the date chat templates that read the clock are given"
    )
    engine_kwargs: dict[str, Any] = Field(default_factory=dict, description="vLLM arguments that change outputs")


SPEED_KWARGS = frozenset(
    (
        "max_num_seqs", "max_num_batched_tokens", "gpu_memory_utilization", "kv_cache_memory_bytes", "block_size",
        "swap_space", "cpu_offload_gb", "tensor_parallel_size", "pipeline_parallel_size", "enable_prefix_caching",
        "enforce_eager", "compilation_config", "async_scheduling", "distributed_executor_backend", "load_format",
        "max_loras", "enable_chunked_prefill",
    )
)  # fmt: skip
"""vLLM arguments that may stand under `speed.engine_kwargs`; all others change outputs and belong to numerics."""


class SpeedConfig(_Part):
    """How fast and on what; never fingerprinted."""

    address: str | None = Field(None, description="Ray cluster to join; a local one is started when absent")
    part_rows: int | Literal["auto"] = "auto"
    num_replicas: int | Literal["auto"] = "auto"
    num_cpus_per_replica: float | Literal["auto"] = "auto"
    engine_kwargs: dict[str, Any] = Field(default_factory=dict, description="vLLM arguments, vLLM's names")
    num_train_workers: int = Field(1, ge=1)
    per_device_train_batch_size: int = Field(8, gt=0)
    zero_stage: Literal[0, 1, 2, 3] = 2
    gradient_checkpointing: bool = False

    @model_validator(mode="after")
    def _only_speed(self) -> "SpeedConfig":
        if wrong := sorted(set(self.engine_kwargs) - SPEED_KWARGS):
            raise ValueError(
                f"engine_kwargs {', '.join(wrong)}: not known to leave outputs unchanged; it belongs under "
                "numerics.engine_kwargs"
            )
        return self


class RunConfig(_Part):
    """One run of SemiEvol, whole."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(0, ge=0)
    task: Annotated[str | TaskConfig, AfterValidator(_known_task)]
    data: DataConfig
    model: str
    method: MethodConfig = Field(default_factory=MethodConfig)
    train: TrainConfig = TrainConfig()
    numerics: NumericsConfig = NumericsConfig()
    speed: SpeedConfig = SpeedConfig()
    max_error_rate: float = Field(0.01, ge=0, le=1, description="share of rows that may end as engine_error")

    @model_validator(mode="after")
    def _batch_divides(self) -> "RunConfig":
        workers, batch = self.speed.num_train_workers, self.train.train_batch_size
        if batch % workers:
            raise ValueError(f"train.train_batch_size {batch} cannot be divided over {workers} speed.num_train_workers")
        return self

    @model_validator(mode="after")
    def _warm_is_the_student(self) -> "RunConfig":
        for c in self.method.collaborators:
            if c.adapter == "warm" and c.model not in (None, self.model):
                raise ValueError(
                    f"method.collaborators.{c.name}: adapter: warm is the student's ({self.model}); it does not fit on "
                    f"{c.model}. Leave out model, or use adapter: none"
                )
        return self

    def resolve_task(self) -> tasks.Task:
        """The task with the data's column names laid over its own. Raises ConfigError for an unknown name."""
        task = tasks.builtin(self.task) if isinstance(self.task, str) else _task(self.task)
        renamed = {k: v for k, v in self.data.columns.model_dump().items() if v is not None}
        return tasks.with_columns(task, renamed)


def _task(described: TaskConfig) -> tasks.Task:
    match described.kind:
        case "labels":
            answer_format: Choice | Labels | Number = Labels(described.labels)
        case "choice":
            answer_format = Choice()
        case "number":
            answer_format = Number(described.relative_tolerance)
    return tasks.Task(
        name=described.name,
        instruction=described.instruction,
        format=answer_format,
        answer_template=described.answer_template,
        options_first=described.options_first,
        columns=tasks.Columns(options="options" if described.kind == "choice" else None),
        max_tokens=described.max_tokens,
    )
