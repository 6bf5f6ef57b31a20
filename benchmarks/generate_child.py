"""The measured side of `benchmarks.generate`: one arm in a process of its own, which notes its phases.

Invariant: the phase `all` holds everything an arm's user waits for, imports and starts of engines included.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.scale_child import Phase, noted_in

ARMS = {
    "ours": "ours: a session of the product",
    "raw": "(a) raw vLLM, all prompts at once",
    "raydata": "(b) a ray.data.llm processor",
    "passes": "(c) a start and a batch a pass",
    "transformers": "(d) transformers.generate",
}
"""Arm -> what it is called in the table."""


def main(kind: str, settings: dict[str, Any], events: str) -> None:
    """Do one kind of work: an arm with settings plan, out and run; `prepare` or `roofline` with their own."""
    phase = noted_in(events)
    if kind in ARMS:
        _arm(kind, settings, phase)
        return
    with phase("all"):
        if kind == "prepare":
            from benchmarks.generate_prepare import work
        else:
            from benchmarks.generate_roofline import work
        work(settings, phase)


def _arm(kind: str, settings: dict[str, Any], phase: Phase) -> None:
    from benchmarks.generate_plan import load, save

    plan = load(Path(settings["plan"]))
    plan = plan.first(settings["rows"]) if settings.get("rows") else plan
    with phase("all"):
        save(_function(kind, settings)(plan, phase), Path(settings["out"]))


def _function(kind: str, settings: dict[str, Any]) -> Callable[..., Any]:
    if kind == "ours":
        from benchmarks import generate_ours

        return lambda plan, phase: generate_ours.work(plan, phase, settings["run"])
    if kind == "raydata":
        from benchmarks import generate_raydata

        return generate_raydata.work
    from benchmarks import generate_arms

    return {"raw": generate_arms.raw, "passes": generate_arms.passes, "transformers": generate_arms.transformers}[kind]


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), sys.argv[3])
