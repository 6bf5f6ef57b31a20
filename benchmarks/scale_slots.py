"""How much of its time a pool of engine actors works: parts of one row, each served for a log-normal time.

Invariant: the ideal is a greedy schedule of the same service times on as many slots, which waits for nothing.
"""

import heapq
import time
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from benchmarks.scale_child import Phase
from benchmarks.scale_data import pool_rows
from benchmarks.scale_select import TASK
from semievol_ray import schema
from semievol_ray.core.prompts import question_messages
from semievol_ray.engines.base import EngineSpec, Sampling
from semievol_ray.engines.scripted import ByteTokenizer, service_seconds
from semievol_ray.placement import Replicas
from semievol_ray.runs import Run, Step
from semievol_ray.stages.draft import DraftJob
from semievol_ray.stages.jobs import PartReport, Session
from semievol_ray.stages.patience import Patience
from semievol_ray.stages.session import run_session
from semievol_ray.stages.supervision import Heard

SLOTS_AN_ACTOR = 8
SIGMA = 0.5
DATE = "2024-07-26"


def makespan(seconds: Sequence[float], num_slots: int) -> float:
    """How long jobs take that are begun in order, each on the slot that is free first."""
    free = [0.0] * num_slots
    for job in seconds:
        heapq.heapreplace(free, free[0] + job)
    return max(free)


def work(settings: dict[str, Any], phase: Phase) -> None:
    """settings: folder, slots, parts_a_slot, service_seconds. Phases: start (until all actors are there), serve."""
    num_actors = settings["slots"] // SLOTS_AN_ACTOR
    num_parts, mean = settings["slots"] * settings["parts_a_slot"], settings["service_seconds"]
    with Run.open(f"{settings['folder']}/run-{settings['slots']}", {}) as run:
        parts = [f"part-{i:05d}" for i in range(num_parts)]
        pool = run.step("pool", settings={}, inputs={}, parts=parts)
        step = run.step("drafts", settings={}, inputs={}, parts=parts)
        prompts = _write(pool)
        _start(num_actors)
        job = DraftJob(step, pool, pool, None, 0, Sampling(1.0, 16), None)
        speed = {"max_num_seqs": SLOTS_AN_ACTOR, "seconds_per_request": mean, "seconds_sigma": SIGMA}
        spec = EngineSpec(
            kind="scripted", model="scripted", model_path="scripted", merged=None, adapters={}, dtype="float32",
            max_model_len=4096, max_lora_rank=8, seed=0, num_threads=1, on_gpu=False, answer_format=TASK.format,
            speed=speed,
        )  # fmt: skip
        session = Session("scale", spec, TASK, DATE, (job,), part_rows=1)
        came: list[tuple[float, float]] = []

        def on_report(report: PartReport) -> None:
            came.append((time.monotonic(), report.seconds))

        with phase("serve") as said:
            began = time.monotonic()
            _run(session, num_actors, on_report)
            first = min(at - seconds for at, seconds in came)
            elapsed = max(at for at, _ in came) - first
            served = [service_seconds(prompt, mean, SIGMA) for prompt in prompts]
            ideal = makespan(served, settings["slots"])
            said.update(
                parts=num_parts, actors=num_actors, start_seconds=first - began, seconds=elapsed, ideal_seconds=ideal,
                efficiency=ideal / elapsed, utilisation=sum(served) / settings["slots"] / elapsed,
            )  # fmt: skip


def _run(session: Session, num_actors: int, on_report: Any) -> None:
    replicas = Replicas(num=num_actors, cpus_each=1.0, gpus_each=0.0, num_threads=1)
    run_session(session, replicas, on_report, lambda _: None, Heard(lambda _: None, _nothing), Patience())


def _start(num_actors: int) -> None:
    """A Ray that believes in as many cores as the actors ask for, and waits for all of them before the first part."""
    import ray

    ray.init(num_cpus=num_actors + 2, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().wait_for_min_actors_s = 600


def _write(pool: Step) -> list[str]:
    """One row a part; the prompt that the engine will see of each."""
    tokenizer, prompts = ByteTokenizer(), []
    for part, (question, _) in zip(pool.parts, pool_rows(len(pool.parts)), strict=True):
        row = {"id": part, "question": question, "options": None, "group": None, "num_copies": 1}
        pool.commit_part(part, pa.Table.from_pylist([row], schema=schema.UNLABELED))
        messages = question_messages(TASK.instruction, TASK.render_question(question, None), ())
        turns = [{"role": m.role, "content": m.content} for m in messages]
        prompts.append(tokenizer.apply_chat_template(turns, add_generation_prompt=True).replace("\x00", ""))
    return prompts


def _nothing(*_: object, **__: object) -> None:
    """Events of the session, unheard."""
