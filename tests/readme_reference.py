"""The generated blocks of docs/, the configuration reference and the file map: `python tests/readme_reference.py`.

Invariant: keys, values and defaults come from the pydantic models and lines of the map from the modules' docstrings,
so that the docs cannot say anything else than the code; only what a key means may be worded here.
"""

import ast
import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from semievol_ray.config import RunConfig

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

MEANING = {
    "name": "name of the run; its folder is `runs/<name>` unless `--run` says otherwise",
    "seed": "everything drawn at random depends on it",
    "task": "a built-in task by name, or one described by the `task.*` keys",
    "task.name": "part of every row's id",
    "task.kind": "a closed set of words, one of the row's own lettered options, or a number",
    "task.instruction": "the system turn of every prompt",
    "task.labels": "the words of kind `labels`",
    "task.relative_tolerance": "how far apart two equal numbers may be, for kind `number`",
    "task.answer_template": "how an answer is written in demonstrations and training targets",
    "task.options_first": "whether options stand before the question",
    "task.max_tokens": "most tokens of an answer",
    "data.labeled.path": "labeled rows, csv, jsonl or parquet",
    "data.unlabeled.path": "the pool; answers in it, if any, serve only to judge pseudo-labels",
    "data.test.path": "the test split; without one nothing is evaluated",
    "data.columns.question": "column of the question, where it is not the task's own name for it",
    "data.columns.options": "column of the options, a JSON list",
    "data.columns.answer": "column of the answer",
    "data.columns.group": "column of a group, such as a subject",
    "model": "the student: a local folder, a packaged model or a hub name",
    "data.annotations[].path": "file of such rows, as `semievol export` writes it",
    "method.rounds.num": "rounds of pseudo-labeling",
    "method.retrieval.pool": "whether accepted rows may be demonstrations too",
    "method.collaborators[].endpoint.max_concurrency": "requests under way at once",
    "method.collaborators[].endpoint.timeout_seconds": "of one request",
    "method.collaborators": "the configured models that answer every row; the keys below are those of each",
    "method.collaborators[].name": "name of its drafts folder; `base_1`, `warm_0` and so on when absent",
    "method.collaborators[].adapter": "`none` is M_base, `warm` is M_warm",
    "method.collaborators[].demonstrations": "labeled questions shown before the row's own, nearest first",
    "method.collaborators[].sampling.temperature": "0 is greedy",
    "method.collaborators[].sampling.top_p": "share of probability to sample from",
    "method.justify.when": "which rows M_warm answers again",
    "method.confidence": "what H is, see Method",
    "method.select.rule": "how a round cuts; the keys below it are the rule's own, see Confidence and selection",
    "method.select.theta": "share of the answered rows that is kept",
    "method.select.scope": "over which rows the share is taken: all, those with one answer, or those of one group",
    "method.select.target_precision": "precision to certify on the dev slice",
    "method.select.num_thresholds": "thresholds that are tested, in fixed sequence",
    "method.select.target_error": "expected share of wrong labels among the accepted",
    "report_to": "trackers; none for an empty list",
    "train.learning_rate": "peak learning rate",
    "train.num_train_epochs": "passes over the examples",
    "train.lr_scheduler_type": "shape of the learning rate over the run",
    "train.warmup_ratio": "share of the steps until the peak",
    "train.weight_decay": "of AdamW",
    "train.max_grad_norm": "gradients are clipped to it",
    "train.lora_r": "rank of the adapter",
    "train.lora_alpha": "its scale, divided by the rank",
    "train.lora_dropout": "dropout before the adapter",
    "train.target_modules": "layers that get an adapter",
    "numerics.engine": "what generates; `scripted` is a fake for tests, without a model",
    "numerics.dtype": "of generation; `auto` is float32 on a CPU, bfloat16 on a GPU",
    "numerics.adapter_serving": "`auto` merges on a CPU and serves LoRA dynamically on a GPU",
    "numerics.max_model_len": "longest prompt and answer together, in tokens; also the longest example",
    "numerics.quantization": "vLLM's name of one",
    "numerics.train_dtype": "of fine-tuning; `auto` as above",
    "speed.part_rows": "rows of a part, the unit of work and of resume; `auto` is rows / 512 within 32..2048",
    "speed.num_cpus_per_replica": "`auto` is a whole node's on the CPU, 1 beside a GPU",
    "speed.num_train_workers": "fine-tuning processes",
    "speed.per_device_train_batch_size": "examples at a time in each of them; the rest is accumulated",
    "speed.zero_stage": "DeepSpeed's ZeRO stage",
    "speed.gradient_checkpointing": "less memory for more time",
}
"""What a key means, where its Field has no description."""


REQUIRED_WITHIN = {"task": "required in a described task", "data.test": "required in `data.test`"}
REQUIRED_WITHIN["speed.num_replicas"] = "required in a range"
DEFAULT = {"method.collaborators": "`base_1`, `base_3`, `warm_0`, `warm_3`"}
"""Defaults too long for a cell, in words."""


def config_keys(model: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key of a configuration that takes a value, dotted, `[]` standing for an item of a list."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        models, repeated = _models(field.annotation), get_origin(field.annotation) is tuple
        if not models or repeated or _is_choice(field.annotation):
            yield key, field
        told: set[str] = set()
        for of in models:
            for inner, inner_field in config_keys(of, f"{key}[]." if repeated else f"{key}."):
                if inner not in told or inner.endswith(".rule"):
                    told.add(inner)
                    yield inner, inner_field


def reference() -> str:
    """The configuration reference as a table."""
    rows = [
        f"| `{key}` | {_values(field)} | {_default(key, field)} | {_meaning(key, field)} |"
        for key, field in config_keys()
    ]
    return "\n".join(["| key | values | default | meaning |", "|---|---|---|---|", *rows])


def file_map() -> str:
    """Every module of the package with the first sentence of its docstring."""
    modules = sorted((ROOT / "semievol_ray").rglob("*.py"), key=lambda p: (len(p.relative_to(ROOT).parts) > 2, p))
    lines = [f"| `{path.relative_to(ROOT).as_posix()}` | {_first_paragraph(path)} |" for path in modules]
    return "\n".join(["| file | what lives there |", "|---|---|", *lines])


BLOCKS = {"config-reference": ("configuration.md", reference), "file-map": ("files.md", file_map)}
"""Block -> the page of docs/ that it stands in, and what makes it."""


def write_blocks() -> None:
    """Make every generated block anew in its page."""
    for name, (page, make) in BLOCKS.items():
        path = ROOT / "docs" / page
        before, opening, rest = path.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
        _, closing, after = rest.partition(f"<!-- /{name} -->")
        path.write_text(f"{before}{opening}{make()}\n{closing}{after}", encoding="utf-8")


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) if part is not annotation for model in _models(part)]


def _is_choice(annotation: Any) -> bool:
    """Whether a value may stand here instead of a mapping, as in `task: wordnet`."""
    return any(part is str or get_origin(part) is Literal for part in get_args(annotation))


def _values(field: FieldInfo) -> str:
    limits = [f"{sign} {getattr(m, name):g}" for m in field.metadata for name, sign in _LIMITS if hasattr(m, name)]
    return " ".join([_type(field.annotation), *([", ".join(limits)] if limits else [])])


_LIMITS = [("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<=")]


def _type(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(parts[0])
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(part) for part in parts if part is not types.NoneType)
    if origin is tuple:
        return f"list of {_type(parts[0])}"
    if origin is dict or _models(annotation):
        return "mapping"
    return {str: "text", int: "integer", float: "number", bool: "`true`, `false`"}[annotation]


def _default(key: str, field: FieldInfo) -> str:
    if field.is_required():
        return REQUIRED_WITHIN.get(key.rpartition(".")[0], "**required**")
    if key in DEFAULT:
        return DEFAULT[key]
    value = field.default if field.default is not PydanticUndefined else field.get_default(call_default_factory=True)
    return "—" if value in (None, "", {}, ()) else f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _meaning(key: str, field: FieldInfo) -> str:
    return field.description or MEANING[key]


def _first_paragraph(module: Path) -> str:
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split()).replace("|", "\\|")


if __name__ == "__main__":
    write_blocks()
