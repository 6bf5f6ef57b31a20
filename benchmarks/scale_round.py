"""A round from input files to decisions with the scripted engine, through the driver's own steps.

Invariant: nothing of a round is left out but its fine-tuning on pseudo-labels and the search for near duplicates,
whose costs are other measurements.
"""

from contextlib import ExitStack
from os import cpu_count
from pathlib import Path
from typing import Any

from benchmarks.scale_child import Phase
from benchmarks.scale_data import KINDS, write_pool_file
from semievol_ray import configfile, driver
from semievol_ray.progress import Progress
from semievol_ray.runs import Run
from semievol_ray.stages.answer import Asked, Warm, answer_round
from semievol_ray.stages.context import Context
from semievol_ray.stages.cutter import means_of
from semievol_ray.stages.ingest import ingest
from semievol_ray.stages.select import Answered
from semievol_ray.stages.selecting import select_round
from semievol_ray.stages.showing import demonstrations_of, shown_of

NUM_LABELED = 512
NUM_COLLABORATORS = 4


def write_inputs(folder: str, num_rows: int) -> None:
    """The labeled and unlabeled file of a pool of this size."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_pool_file(f"{folder}/labeled.jsonl", NUM_LABELED, answers=True, stem="labeled")
    write_pool_file(f"{folder}/unlabeled.jsonl", num_rows, stem="thing")


def tree_of(folder: str, part_rows: int | None) -> dict[str, Any]:
    """The configuration of the run as a person would write it: the paper's four collaborators and thresholds.

    A replica a core: the scripted engine works on one, where a real one would take all.
    """
    task = {"name": "kinds", "kind": "labels", "labels": list(KINDS), "instruction": "Say what kind of thing it is."}
    return {
        "name": "scale",
        "task": task,
        "data": {
            "labeled": f"{folder}/labeled.jsonl",
            "unlabeled": f"{folder}/unlabeled.jsonl",
            "near_duplicates": {"action": "off"},
        },
        "model": "scripted",
        "method": {"embedder": "hash"},
        "numerics": {"engine": "scripted"},
        "speed": {"num_replicas": cpu_count() or 1} | ({"part_rows": part_rows} if part_rows else {}),
        "report_to": [],
    }


def work(settings: dict[str, Any], phase: Phase) -> None:
    """settings: folder, part_rows (None: auto). The phases are a round's steps."""
    folder = settings["folder"]
    config = configfile.parse(tree_of(folder, settings.get("part_rows")), "benchmark")
    with ExitStack() as closing:
        with phase("open"):
            run = closing.enter_context(Run.open(f"{folder}/run", {}, patience_seconds=6, renew_seconds=1))
        context = Context(run, config, Progress(quiet=True), closing)
        with phase("ingest") as said:
            data = ingest(run, config, context.task, means_of(context))
            said["parts"] = len(data.pool.rows.parts)
        with phase("warm_up"):
            warm = driver.warm_up(context, data)
        with phase("retrieve"):
            shown = shown_of(context, 1, warm.examples, warm.examples)
            rows = data.pool.rows
            nearest = demonstrations_of(context, 1, "", rows, rows, shown)
        with phase("answer"):
            fold = Asked("rounds/0001", rows, shown, nearest)
            justified = answer_round(context, 1, [fold], Warm(warm.adapter), [])[0]
        with phase("select"):
            select_round(context, 1, data, Answered(rows, justified), None, None)
