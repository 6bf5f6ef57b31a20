"""Before the clock runs: a workload's run directory up to its retrieval, and the plan that all arms read.

Invariant: prompts are recorded from the product's own drafting, so that they are what it will send.
"""

import asyncio
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.generate_model import DUMMIES, model_folder, write_adapter
from benchmarks.generate_plan import Pass, Plan, save
from benchmarks.scale_child import Phase
from semievol_ray import configfile, driver, schema
from semievol_ray.config import RunConfig
from semievol_ray.engines.adapters import merge
from semievol_ray.engines.base import Completion, Request, ScoreRequest, Tokenizer
from semievol_ray.engines.rendering import end_of_turn_id, load_tokenizer
from semievol_ray.progress import Progress
from semievol_ray.runs import Run, Step
from semievol_ray.stages.answer import Asked, Warm, drafts_of
from semievol_ray.stages.answering import Asker, Load
from semievol_ray.stages.context import Context
from semievol_ray.stages.draft import DraftJob, draft_part
from semievol_ray.stages.groups import Wanted
from semievol_ray.stages.ingest import Data, ingest
from semievol_ray.stages.showing import demonstrations_of, shown_of

WORKLOADS: dict[str, list[dict[str, Any]]] = {
    "W1": [{"name": f"same_{i}", "adapter": "none", "demonstrations": 3} for i in range(4)],
    "W2": [
        {"name": "base_1", "adapter": "none", "demonstrations": 1},
        {"name": "base_3", "adapter": "none", "demonstrations": 3},
        {"name": "warm_0", "adapter": "warm", "demonstrations": 0},
        {"name": "warm_3", "adapter": "warm", "demonstrations": 3},
    ],
}
"""Four collaborators of one configuration; and the paper's four, of the base and of M_warm."""


class Recorder:
    """An engine that keeps what it is asked, and answers with the number of it."""

    max_num_seqs = 1

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self.tokenizer = tokenizer
        self.asked: list[Request] = []

    async def generate(self, request: Request) -> Completion:
        self.asked.append(request)
        return Completion(str(len(self.asked) - 1), (), (), "length")

    async def score(self, request: ScoreRequest) -> tuple[float, ...]:
        raise NotImplementedError

    def close(self) -> None:
        return None


def work(settings: dict[str, Any], phase: Phase) -> None:
    """settings: folder, workload, config (a YAML's tree), rows, model, max_num_seqs, gpu. Writes plan and run."""
    folder = Path(settings["folder"])
    with phase("prepare"), ExitStack() as closing:
        model = model_folder(settings["model"], folder)
        warm = any(c["adapter"] == "warm" for c in WORKLOADS[settings["workload"]])
        adapter = write_adapter(model, folder / "adapter") if warm else None
        tree = tree_of(settings, model, adapter)
        config = configfile.parse(tree, "benchmark")
        run = closing.enter_context(Run.open(str(folder / "run"), {"name": config.name, "config": tree}))
        context = Context(run, config, Progress(quiet=True), closing)
        data, wanted = before_answering(context)
        merged = None
        if adapter and not settings["gpu"]:
            merged = str(folder / "merged")
            merge(model, adapter, "float32", merged)
        save(_plan(settings, tree, config, model, adapter, merged, data, wanted), folder / "plan")


def tree_of(settings: Mapping[str, Any], model: str, adapter: str | None) -> dict[str, Any]:
    """The run's configuration as a person would write it, with the rows and task of the configuration given."""
    given, kwargs = settings["config"], {"max_num_seqs": settings["max_num_seqs"]}
    data = {split: dict(given["data"][split]) for split in ("labeled", "unlabeled")}
    data["labeled"].pop("sample", None)
    data["unlabeled"]["sample"] = settings["rows"]
    return {
        "name": "generate",
        "task": given["task"],
        "data": {**data, "near_duplicates": {"action": "off"}},
        "model": model,
        "method": {
            "embedder": settings["embedder"],
            "collaborators": WORKLOADS[settings["workload"]],
            **({"warm_adapter": adapter} if adapter else {"warm_up": False}),
        },
        "numerics": {"max_model_len": int((given.get("numerics") or {}).get("max_model_len", 2048))},
        "speed": {"engine_kwargs": kwargs | ({"load_format": "dummy"} if settings["model"] in DUMMIES else {})},
        "report_to": [],
    }


def before_answering(context: Context) -> tuple[Data, list[Wanted]]:
    """The round's rows and the drafts that are wanted of them; steps that are committed are not done again."""
    data = ingest(context.run, context.config, context.task)
    fold, warm = asked_of(context, data)
    return data, drafts_of(context, fold, warm)


def asked_of(context: Context, data: Data) -> tuple[Asked, Warm]:
    """What round 1 answers, with its demonstrations, and M_warm."""
    warm = driver.warm_up(context, data)
    shown = shown_of(context, 1, warm.examples, warm.examples)
    rows = data.pool.rows
    nearest = demonstrations_of(context, 1, "", rows, rows, shown)
    return Asked("rounds/0001", rows, shown, nearest), Warm(warm.adapter)


def _plan(
    settings: Mapping[str, Any], tree: dict[str, Any], config: RunConfig, model: str, adapter: str | None,
    merged: str | None, data: Data, wanted: list[Wanted],
) -> Plan:  # fmt: skip
    tokenizer, numerics = load_tokenizer(model), config.numerics
    rows = _rows(data.pool.rows)
    gold = {row["id"]: row["answer"] for row in _gold(data)}
    passes = [_recorded(item.job, config, tokenizer) for item in wanted if isinstance(item.job, DraftJob)]
    engine = {
        "dtype": "bfloat16" if settings["gpu"] else "float32",
        "max_model_len": numerics.max_model_len,
        "seed": 0,
        "generation_config": "vllm",
        "enable_prefix_caching": True,
        **config.speed.engine_kwargs,
    }
    engine |= {} if settings["gpu"] else {"enforce_eager": True, "block_size": 32}
    if adapter and not merged:
        engine |= {"enable_lora": True, "max_lora_rank": 16, "max_loras": 1}
    return Plan(
        tree, model, adapter, merged, tuple(rows), tuple(gold.get(row["id"]) or "" for row in rows), tuple(passes),
        engine, end_of_turn_id(tokenizer, numerics.template_date), config.resolve_task().max_tokens, settings["gpu"],
        settings["threads"], numerics.template_date,
    )  # fmt: skip


def _rows(step: Step) -> list[dict[str, Any]]:
    return [row for part in step.parts for row in step.read_part(part, schema.UNLABELED).to_pylist()]


def _gold(data: Data) -> list[dict[str, Any]]:
    step = data.pool.gold
    return [row for part in step.parts for row in step.read_part(part, schema.GOLD).to_pylist()]


def _recorded(job: DraftJob, config: RunConfig, tokenizer: Tokenizer) -> Pass:
    """A collaborator's questions as ids and as messages; demonstrations that did not fit are out of both."""
    task, numerics = config.resolve_task(), config.numerics

    def asked(of: Tokenizer | None) -> list[Request]:
        engine = Recorder(of)
        asker = Asker(engine, task, numerics.max_model_len, numerics.template_date, Load(), [])
        tables = [asyncio.run(draft_part(job, part, asker)) for part in job.pool.parts]
        return [engine.asked[int(text)] for table in tables for text in table.column("text").to_pylist()]

    ids, messages = [r.prompt_ids for r in asked(tokenizer)], [r.messages for r in asked(None)]
    name, drawn = job.step.name.rsplit("/", 1)[1], job.sampling
    return Pass(name, job.adapter is not None, drawn.temperature, drawn.max_tokens, tuple(messages), tuple(ids))
