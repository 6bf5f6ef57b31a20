"""Our own arm: a round's drafts and justifications by the product's code, in the run that was prepared.

Invariant: nothing here answers; what runs is the code of `semievol run` from its first session on.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks.generate_plan import Answers, Plan
from benchmarks.generate_prepare import asked_of
from benchmarks.scale_child import Phase
from semievol_ray import configfile, schema
from semievol_ray.activity import seconds_between
from semievol_ray.progress import Progress
from semievol_ray.runs import Run, Step, read_events
from semievol_ray.stages.answer import answer_round
from semievol_ray.stages.context import Context
from semievol_ray.stages.ingest import ingest

Event = Mapping[str, Any]


def work(plan: Plan, phase: Phase, root: str) -> Answers:
    """Answer the round of the run in `root`; the phase `engines` says for how long engines were up."""
    config = configfile.parse(dict(plan.tree), "benchmark")
    with ExitStack() as closing:
        manifest = {"name": config.name, "config": plan.tree}
        run = closing.enter_context(Run.open(root, manifest, patience_seconds=6, renew_seconds=1))
        context = Context(run, config, Progress(quiet=True), closing)
        fold, warm = asked_of(context, ingest(run, config, context.task))
        with phase("round"):
            justified = answer_round(context, 1, [fold], warm, [])[0]
        events = read_events(root)
        with phase("engines") as said:
            said["seconds"] = sum(up_seconds(of) for of in by_session(events))
    drafts = {p.name: Step(f"{root}/{fold.folder}/drafts/{p.name}", p.name, fold.pool.parts) for p in plan.passes}
    return _answers(drafts, justified, events)


def by_session(events: Sequence[Event]) -> list[list[Event]]:
    """The reports of parts of each session, in order."""
    sessions: list[list[Event]] = []
    for event in events:
        if event["kind"] == "session_started":
            sessions.append([])
        elif event["kind"] == "part_committed":
            sessions[-1].append(event)
    return sessions


def up_seconds(reports: Sequence[Event]) -> float:
    """From when the first part was begun, by an engine that was up, to when the last was committed."""
    last = max(str(event["time"]) for event in reports)
    return max(seconds_between(event["time"], last) + float(event["seconds"]) for event in reports)


def _answers(drafts: Mapping[str, Step], justified: Step, events: Sequence[Event]) -> Answers:
    made = Answers(num_starts=len(by_session(events)))
    for event in (event for reports in by_session(events) for event in reports):
        made.num_tokens += event["num_tokens"]
        made.num_prompt_tokens += event["num_prompt_tokens"]
        made.cached(event["num_looked_up"], event["num_found"])
    made.drafts = {name: _texts(step, schema.DRAFTS) for name, step in drafts.items()}
    made.justified = _texts(justified, schema.JUSTIFIED)
    return made


def _texts(step: Step, columns: Any) -> list[str]:
    return [row["text"] or "" for part in step.parts for row in step.read_part(part, columns).to_pylist()]
