"""(b) ray.data.llm: a processor over exploded rows, a request for each row and collaborator, then the justifications.

Invariant: messages go in and texts come out, with the stages that the processor has by default.
"""

import logging
import os
from collections.abc import Sequence
from typing import Any

from benchmarks.generate_arms import as_turns, environment
from benchmarks.generate_plan import Answers, Messages, Plan
from benchmarks.scale_child import Phase

Item = dict[str, Any]
BATCH = 32
"""Rows of a block and of a batch; up to eight batches are in the engine at once, more than `max_num_seqs` requests."""


def work(plan: Plan, phase: Phase) -> Answers:
    """A processor for each set of weights, and one for the justifications; each starts its engine anew."""
    environment(plan)
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    import ray

    made = Answers()
    with phase("connect"):
        # the stages take a logical CPU each, and would wait for each other on few
        ray.init(
            num_cpus=max(8, plan.num_threads), include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        for n, (model, passes) in enumerate(plan.groups()):
            items = [
                _item(i, p.name, p.messages[i], p.temperature, p.max_tokens, plan.lora(warm=p.warm))
                for i in range(len(plan.rows))
                for p in passes
            ]
            with phase(f"processor {n}"):
                answered = _processed(plan, model, items)
            for p in passes:
                made.drafts[p.name] = _texts(made, [row for row in answered if row["name"] == p.name])
        with phase("processor reflect"):
            lora = plan.lora(warm=plan.has_warm)
            items = [
                _item(i, "reflect", messages, 0.0, plan.justify_max_tokens, lora)
                for i, messages in enumerate(plan.justifications(made.drafts))
            ]
            made.justified = _texts(made, _processed(plan, plan.weights_of(warm=plan.has_warm), items))
        made.num_starts = len(plan.groups()) + 1
    finally:
        ray.shutdown()
    return made


def _item(i: int, name: str, messages: Messages, temperature: float, max_tokens: int, lora: str | None) -> Item:
    item: Item = {"row": i, "name": name, "messages": as_turns(messages), "temperature": temperature}
    return item | {"max_tokens": max_tokens} | ({"model": lora} if lora else {})


def _processed(plan: Plan, model: str, items: Sequence[Item]) -> list[Item]:
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    engine = {**plan.engine, "logprobs_mode": "raw_logprobs"}
    one = {"CPU": 1} | ({"GPU": 1} if plan.on_gpu else {})
    config = vLLMEngineProcessorConfig(
        model_source=model,
        engine_kwargs=engine | ({} if plan.on_gpu else {"distributed_executor_backend": "uni"}),
        concurrency=1,
        batch_size=BATCH,
        placement_group_config={"bundles": [one]},
    )
    stop = plan.end_of_turn

    def before(row: Item) -> Item:
        sampling = {"temperature": row["temperature"], "max_tokens": row["max_tokens"], "logprobs": 0}
        return {"messages": row["messages"], "sampling_params": sampling | {"stop_token_ids": [stop]}}

    def after(row: Item) -> Item:
        counts = {"num_tokens": row["num_generated_tokens"], "num_prompt_tokens": row["num_input_tokens"]}
        return {"row": row["row"], "name": row["name"], "text": row["generated_text"], **counts}

    processor: Any = build_processor(config, preprocess=before, postprocess=after)
    blocks = -(-len(items) // BATCH)  # else there is a block for every few rows, and no batch is ever full
    return list(processor(ray.data.from_items(list(items), override_num_blocks=blocks)).take_all())


def _texts(made: Answers, rows: Sequence[Item]) -> list[str]:
    made.num_tokens += sum(int(row["num_tokens"]) for row in rows)
    made.num_prompt_tokens += sum(int(row["num_prompt_tokens"]) for row in rows)
    return [str(row["text"]) for row in sorted(rows, key=lambda row: int(row["row"]))]
