"""What a person writes to describe a run: pydantic models, frozen, unknown keys refused; imports nothing heavy.

Invariant: `MethodConfig`, `TrainConfig` and `NumericsConfig` are fingerprinted (they change what a step outputs),
`SpeedConfig` never is (going from 1 to 64 GPUs invalidates nothing).
"""

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from semievol_ray import tasks
from semievol_ray.errors import ConfigError
from semievol_ray.methodconfig import MethodConfig, Part
from semievol_ray.runtimeenv import RuntimeEnvConfig
from semievol_ray.taskconfig import TaskConfig


class Source(Part):
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


class Annotation(Part):
    """Rows of the pool that people labeled meanwhile; rows without an answer in the file are passed over."""

    path: str
    from_round: int = Field(ge=1, description="the first round that knows the labels")


def _date_text(value: Any) -> Any:
    """YAML reads a bare 2024-07-26 as a date."""
    return value.isoformat() if isinstance(value, date) else value


def _known_task(value: "str | TaskConfig") -> "str | TaskConfig":
    try:
        if isinstance(value, str):
            tasks.resolve(value)
        return value
    except ConfigError as error:
        raise ValueError(str(error)) from None


class ColumnsConfig(Part):
    """Names of the columns in the data files, where they are not the task's own."""

    question: str | None = None
    options: str | None = None
    answer: str | None = None
    group: str | None = None


class NearDuplicatesConfig(Part):
    """Rows that are almost the same, by MinHash over word shingles; exact repeats are always found."""

    action: Literal["off", "report", "drop"] = Field("report", description="drop: the lower split loses the row")
    similarity: float = Field(0.9, gt=0, le=1, description="Jaccard similarity of 3-word shingles from which on")
    most_rows: int = Field(2_000_000, ge=0, description="above this many rows only exact repeats are looked for")


class DataConfig(Part):
    """The labeled rows D_L, the unlabeled pool D_U and the test split."""

    labeled: SourceField
    unlabeled: SourceField
    test: SourceField | None = None
    columns: ColumnsConfig = ColumnsConfig()
    dev: int = Field(0, ge=0, description="labeled rows held out to judge pseudo-labels, a slice for each round")
    validation: int = Field(0, ge=0, description="labeled rows held out to stop rounds and fine-tunings by")
    annotations: tuple[Annotation, ...] = Field((), description="exported rows that people labeled, for later rounds")
    near_duplicates: NearDuplicatesConfig = NearDuplicatesConfig()


class EarlyStoppingConfig(Part):
    """When a fine-tuning ends before its last step, and hands over its best checkpoint; judged on data.validation."""

    patience: int = Field(3, ge=1, description="validations without a lower loss before stopping")
    eval_steps: int | None = Field(None, gt=0, description="steps between validations; once an epoch when absent")
    min_delta: float = Field(0.0, ge=0, description="a loss has to be lower by more than this to count as lower")


class TrainConfig(Part):
    """Fine-tuning settings under their Hugging Face names; fingerprinted."""

    method: Literal["lora", "full"] = Field(
        "lora", description="what learns: an adapter, or every parameter, which saves and serves a whole model"
    )
    learning_rate: float = Field(1e-4, gt=0)
    num_train_epochs: float = Field(2.0, gt=0)
    max_steps: int | None = Field(None, gt=0, description="optimizer steps in place of the epochs")
    train_batch_size: int = Field(8, gt=0, description="examples per optimizer step over all workers")
    lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    lora_r: int = Field(16, gt=0)
    lora_alpha: int = Field(32, gt=0)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str | tuple[str, ...] = "all-linear"
    use_rslora: bool = Field(False, description="the adapter's scale is divided by the root of the rank instead")
    use_dora: bool = Field(False, description="DoRA: magnitudes learn beside directions; served merged only")
    load_in_4bit: bool = Field(False, description="QLoRA: the base in four bits while training; needs bitsandbytes")
    pseudo_label_weight: float = Field(1.0, gt=0, description="weight of a pseudo-labelled example's loss; gold is 1")
    early_stopping: EarlyStoppingConfig | None = Field(
        None, description="stop by the loss on data.validation and keep the best checkpoint"
    )

    @model_validator(mode="after")
    def _adapter_settings_with_an_adapter(self) -> "TrainConfig":
        asked = [name for name in ("use_rslora", "use_dora", "load_in_4bit") if getattr(self, name)]
        if self.method == "full" and asked:
            raise ValueError(f"method full trains no adapter, so that {', '.join(asked)} would have no effect")
        return self


class NumericsConfig(Part):
    """What changes the numbers a model returns; fingerprinted."""

    engine: Literal["vllm", "transformers", "scripted"] = "vllm"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    adapter_serving: Literal["auto", "merged", "dynamic"] = "auto"
    max_model_len: int = Field(2048, gt=0)
    quantization: str | None = None
    train_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    template_date: Annotated[str, BeforeValidator(_date_text)] = Field(
        "2024-07-26", description="the date chat templates that read the clock are given"
    )
    engine_kwargs: dict[str, Any] = Field(default_factory=dict, description="vLLM arguments that change outputs")


SPEED_KWARGS = frozenset(
    (
        "max_num_seqs", "max_num_batched_tokens", "gpu_memory_utilization", "kv_cache_memory_bytes", "block_size",
        "swap_space", "cpu_offload_gb", "tensor_parallel_size", "pipeline_parallel_size", "enable_prefix_caching",
        "enforce_eager", "compilation_config", "async_scheduling", "distributed_executor_backend", "load_format",
        "max_loras", "enable_chunked_prefill", "seconds_per_request",
    )
)  # fmt: skip
"""vLLM arguments, and one of the scripted engine, that may stand under `speed.engine_kwargs`; others change outputs."""


class ReplicaRange(Part):
    """Between how many engines a group's pool may grow and shrink."""

    min: int = Field(1, ge=1, description="fewest engines; a run does not start without room for them")
    max: int = Field(ge=1, description="most engines, reached as machines join")

    @model_validator(mode="after")
    def _in_order(self) -> "ReplicaRange":
        if self.max < self.min:
            raise ValueError(f"max {self.max} is less than min {self.min}")
        return self


class SpeedConfig(Part):
    """How fast and on what; never fingerprinted."""

    address: str | None = Field(None, description="Ray cluster to join; a local one is started when absent")
    part_rows: int | Literal["auto"] = "auto"
    num_replicas: Annotated[int, Field(ge=1)] | Literal["auto"] | ReplicaRange = Field(
        "auto", description="engines of a group, or {min, max}; `auto` is one a GPU, or one a node without GPUs"
    )
    autoscaling: bool = Field(
        False, description="the cluster grows on demand: what does not fit yet is warned of and waited for, not refused"
    )
    num_cpus_per_replica: float | Literal["auto"] = "auto"
    engine_core: Literal["auto", "process", "thread"] = Field(
        "auto", description="where vLLM's core runs; auto is a thread of the actor on a CPU, a process beside a GPU"
    )
    engine_kwargs: dict[str, Any] = Field(default_factory=dict, description="vLLM arguments, vLLM's names")
    stall_seconds: float = Field(
        600.0, gt=0, description="an engine at work without a new token for so long is ended, its parts done again"
    )
    start_seconds: float = Field(1800.0, gt=0, description="an engine that starts for longer is told of")
    grace_seconds: float = Field(
        25.0, ge=0, description="from SIGTERM on a worker's machine to its end, to finish what is begun"
    )
    num_train_workers: int = Field(1, ge=1)
    per_device_train_batch_size: int = Field(8, gt=0)
    zero_stage: Literal[0, 1, 2, 3] = 2
    gradient_checkpointing: bool = False
    packing: bool = Field(
        False, description="examples of a micro-batch in one row without padding, none of which sees another"
    )
    offload: Literal["none", "optimizer", "all"] = Field(
        "none", description="what DeepSpeed keeps in the CPU's memory: optimizer states, or parameters too (ZeRO-3)"
    )
    save_steps: int = Field(100, ge=0, description="optimizer steps between checkpoints of a fine-tuning; 0: none")
    save_total_limit: int = Field(2, ge=1, description="checkpoints that are kept while training, besides the best")
    deepspeed: str | None = Field(
        None, description="a DeepSpeed JSON of your own for what the configuration does not decide"
    )

    runtime_env: RuntimeEnvConfig = RuntimeEnvConfig()

    @model_validator(mode="after")
    def _offload_needs_a_stage(self) -> "SpeedConfig":
        least = {"none": 0, "optimizer": 1, "all": 3}[self.offload]
        if self.zero_stage < least:
            raise ValueError(f"offload {self.offload} needs zero_stage {least} or more, not {self.zero_stage}")
        return self

    @model_validator(mode="after")
    def _only_speed(self) -> "SpeedConfig":
        if wrong := sorted(set(self.engine_kwargs) - SPEED_KWARGS):
            raise ValueError(
                f"engine_kwargs {', '.join(wrong)}: not known to leave outputs unchanged; it belongs under "
                "numerics.engine_kwargs"
            )
        return self


class GuardConfig(Part):
    """When a round stops rather than train on noise; changes no output, so it is not fingerprinted."""

    min_accepted: int = Field(8, ge=1, description="fewest accepted rows of a round")
    min_answers: int = Field(2, ge=1, description="fewest different answers among them (closed answer sets)")
    min_precision: float | None = Field(None, gt=0, lt=1, description="floor of the precision on data.dev")


class RunConfig(Part):
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
    guard: GuardConfig = GuardConfig()
    keep: Literal["all", "scalars", "last_round"] = Field(
        "all",
        description="what stays when a round is over: scalars drops raw texts of completions, last_round those of "
        "earlier rounds and what only they needed",
    )
    report_to: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)

    @model_validator(mode="after")
    def _dev_where_needed(self) -> "RunConfig":
        rule, dev, rounds = self.method.select.rule, self.data.dev, self.method.rounds
        if rule != "percentile" and dev == 0:
            raise ValueError(f"method.select.rule {rule} needs data.dev: labeled rows held out to judge by")
        if self.guard.min_precision is not None and dev == 0:
            raise ValueError("guard.min_precision needs data.dev: labeled rows held out to judge by")
        if 0 < dev < rounds.num:
            raise ValueError(f"data.dev {dev} is fewer than a row for each of {rounds.num} rounds")
        if rounds.patience and not self.data.validation:
            raise ValueError("method.rounds.patience needs data.validation: labeled rows held out to stop by")
        if self.train.early_stopping and not self.data.validation:
            raise ValueError("train.early_stopping needs data.validation: labeled rows held out to stop by")
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> "RunConfig":
        workers, batch = self.speed.num_train_workers, self.train.train_batch_size
        if batch % workers:
            raise ValueError(f"train.train_batch_size {batch} cannot be divided over {workers} speed.num_train_workers")
        return self

    @model_validator(mode="after")
    def _trained_can_be_served(self) -> "RunConfig":
        train, serving = self.train, self.numerics.adapter_serving
        alone = "method full" if train.method == "full" else "use_dora" if train.use_dora else None
        if alone and serving == "dynamic":
            raise ValueError(
                f"train.{alone} cannot be served with numerics.adapter_serving dynamic; use auto or merged"
            )
        if train.load_in_4bit and self.speed.zero_stage == 3:
            raise ValueError("train.load_in_4bit does not go with speed.zero_stage 3; use 0, 1 or 2")
        if self.numerics.train_dtype == "float16" and self.speed.zero_stage == 0:
            raise ValueError("numerics.train_dtype float16 has no checkpoints with speed.zero_stage 0; use 1, 2 or 3")
        return self

    def resolve_task(self) -> tasks.Task:
        """The task with the data's column names laid over its own. Raises ConfigError for an unknown name."""
        task = tasks.resolve(self.task) if isinstance(self.task, str) else self.task.task()
        renamed = {k: v for k, v in self.data.columns.model_dump().items() if v is not None}
        return tasks.with_columns(task, renamed)
