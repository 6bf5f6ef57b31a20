"""`semievol tune`: which speed settings answer a sample of the pool fastest, tried with the run's own engines.

Invariant: nothing of a run is touched; whatever stops it, the best that was found so far is told and written.
"""

import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from semievol_ray import driver, storage, tables
from semievol_ray.checks import check_addresses, check_method, check_models
from semievol_ray.config import RunConfig
from semievol_ray.errors import RunStopped, SemievolError, UserError
from semievol_ray.extras import check_extras
from semievol_ray.placement import Resources
from semievol_ray.preflight import preflight
from semievol_ray.progress import Progress
from semievol_ray.runs import Run, read_events
from semievol_ray.servable import check_servable
from semievol_ray.stages.answer import Asked, drafts_of
from semievol_ray.stages.context import Context
from semievol_ray.stages.cutter import means_of
from semievol_ray.stages.groups import engine_groups, run_group
from semievol_ray.stages.ingest import Data, ingest
from semievol_ray.stages.learning import examples_of
from semievol_ray.stages.showing import demonstrations_of
from semievol_ray.stages.train import Learned
from semievol_ray.tunespace import (
    Settings,
    Trial,
    beginning,
    best_of,
    dimensions,
    part_rows_of,
    rows_wanted,
    search,
    speed_with,
)


@dataclass(frozen=True)
class Sample:
    """What every trial answers: the sample's steps, in a folder of their own, by the drafts step of a round."""

    context: Context
    data: Data
    shown: Asked
    closing: ExitStack


def tune(
    config: RunConfig,
    minutes: float,
    *,
    rows: int | None = None,
    folder: str = "runs",
    progress: Progress | None = None,
) -> list[Trial]:
    """Try settings for about so many minutes; all trials in order, the present settings first.

    `folder` is one that all nodes see; what is made in it is removed. Ctrl-C ends the search, not the report of it.
    Raises what errors.py names where the present settings do not work for a reason that no others would mend.
    """
    progress, began = progress or Progress(), time.monotonic()
    config = sampled(config)
    root = storage.absolute(f"{folder}/.tune-{uuid.uuid4().hex[:12]}")
    for check in (check_addresses, check_models, check_method, check_extras, check_servable):
        check(config)
    trials: list[Trial] = []
    try:
        with ExitStack() as closing, driver.terminated_as_interrupt():
            closing.callback(storage.remove_folder, root)
            run = closing.enter_context(Run.open(root, {"name": config.name, "config": config.model_dump(mode="json")}))
            sample = _sample(Context(run, config, progress, closing, preflight=preflight), rows, closing)
            num_rows = sample.data.pool.rows.num_rows()
            progress.say(f"tune: {num_rows} rows of the pool a trial, for about {minutes:g} minutes")
            for trial in _trials(sample, began + 60 * minutes):
                trials.append(trial)
                progress.say(f"tune: {told(trial)}")
    except KeyboardInterrupt:
        progress.say("tune: stopped; this is what was found so far")
    return trials


def sampled(config: RunConfig) -> RunConfig:
    """The configuration of a run over a sample of the pool: one round, the base model, nothing held out."""
    off = config.data.near_duplicates.model_copy(update={"action": "off"})
    nothing = {"test": None, "dev": 0, "validation": 0, "annotations": ()}
    data = config.data.model_copy(update={**nothing, "near_duplicates": off})
    own = [c.model_copy(update={"adapter": "none"}) for c in config.method.collaborators if not c.endpoint]
    if not own:
        raise UserError("tune measures engines, and every collaborator of this configuration is behind an endpoint")
    rounds = config.method.rounds.model_copy(update={"num": 1})
    method = config.method.model_copy(update={"collaborators": tuple(own), "rounds": rounds, "warm_adapter": None})
    return config.model_copy(update={"data": data, "method": method, "report_to": ()})


def told(trial: Trial) -> str:
    """A trial in one line."""
    settings = ", ".join(f"{name} {value}" for name, value in trial.settings.items())
    if trial.rows_per_second is None:
        return f"{settings}: {trial.note}"
    return f"{settings}: {trial.rows_per_second:.2f} rows/s, {trial.tokens_per_second:,.0f} tokens/s"


def render(trials: Sequence[Trial]) -> str:
    """The table of all trials, the best marked."""
    best = best_of(trials)
    rows = [
        ("*" if trial is best else "", *map(str, trial.settings.values()), *_figures(trial), trial.note[:40])
        for trial in trials
    ]
    names = [_short(name) for name in trials[0].settings] if trials else []
    return tables.table(("", *names, "rows/s", "tokens/s", "start", "note"), rows)


def snippet(config: RunConfig, trials: Sequence[Trial]) -> str:
    """The best settings as YAML for the configuration's file. Raises RunStopped where nothing worked."""
    best = best_of(trials)
    if best is None:
        reasons = "; ".join(dict.fromkeys(trial.note for trial in trials)) or "nothing was tried"
        raise RunStopped(f"tune found no settings that work: {reasons}")
    speed = speed_with(config.speed, best.settings)
    chosen = {"speed": {"num_replicas": speed.num_replicas, "engine_kwargs": dict(speed.engine_kwargs)}}
    first = trials[0].rows_per_second
    gain = f", {best.rows_per_second / first:.2f} times the settings before" if first and best.rows_per_second else ""
    head = f"# semievol tune: {best.rows_per_second:.2f} rows/s of the drafts{gain}; the best of {len(trials)} settings"
    return head + "\n" + yaml.safe_dump(chosen, sort_keys=False)


def write_snippet(text: str, path: str) -> None:
    """The snippet as a file of its own."""
    Path(path).write_text(text, encoding="utf-8")


def _sample(context: Context, rows: int | None, closing: ExitStack) -> Sample:
    """The sample's rows, what may be shown and what is, made once."""
    wanted = rows or rows_wanted(context.config, context.resources)
    source = context.config.data.unlabeled.model_copy(update={"sample": wanted})
    data = context.config.data.model_copy(update={"unlabeled": source})
    speed = context.config.speed.model_copy(update={"part_rows": part_rows_of(context.config)})
    context.config = context.config.model_copy(update={"data": data, "speed": speed})
    found = ingest(context.run, context.config, context.task, means_of(context))
    if rows is None and found.pool.rows.num_rows() < wanted:
        context.progress.say(
            f"tune: {wanted} rows would keep every engine full; where fewer are, many engines look slow"
        )
    shown = examples_of(context, "rounds/0000", Learned(found.labeled))
    demonstrations = demonstrations_of(context, 1, "", found.pool.rows, found.pool.rows, shown)
    return Sample(context, found, Asked("tune", found.pool.rows, shown, demonstrations), closing)


def _trials(sample: Sample, deadline: float) -> Any:
    config, resources = sample.context.config, sample.context.resources
    numbers = iter(range(10**6))

    def measure(settings: Settings) -> Trial:
        return _tried(sample, resources, settings, next(numbers))

    def has_time(trials: Sequence[Trial]) -> bool:
        return time.monotonic() + max(trial.seconds for trial in trials) < deadline

    varied = dimensions(config, resources)
    return search(varied, beginning(config, resources, varied), measure, has_time)


def _tried(sample: Sample, resources: Resources, settings: Settings, number: int) -> Trial:
    """One setting: its engines started, the sample drafted by every collaborator, the events read."""
    config = sample.context.config
    changed = config.model_copy(update={"speed": speed_with(config.speed, settings)})
    context = Context(sample.context.run, changed, sample.context.progress, sample.closing)
    context.resources, folder, began = resources, f"tune/{number:03d}", time.monotonic()
    try:
        wanted = drafts_of(context, replace(sample.shown, folder=folder), None)
        for group in engine_groups(wanted):
            run_group(context, f"tune-{number}", group)
    except SemievolError as error:
        if number == 0 and isinstance(error, UserError):
            raise
        return Trial(settings, None, seconds=time.monotonic() - began, note=str(error))
    events = [event for event in read_events(context.run.root) if _is_of(event, folder, f"tune-{number} ")]
    return measured(settings, events, time.monotonic() - began)


def measured(settings: Settings, events: Sequence[dict[str, Any]], seconds: float) -> Trial:
    """What the events of a trial come to, from the first question to the last answer, without the engines' starts."""
    parts = [event for event in events if event["kind"] == "part_committed"]
    if any(event["kind"] == "engine_out_of_memory" for event in events):
        return Trial(settings, None, seconds=seconds, note="an engine ran out of memory")
    if failed := sum(event["num_errors"] for event in parts):
        return Trial(settings, None, seconds=seconds, note=f"{failed} rows failed: {parts[0]['first_error']}")
    if not parts:
        return Trial(settings, None, seconds=seconds, note="no part came")
    ends = [datetime.fromisoformat(event["time"]).timestamp() for event in parts]
    begun = min(end - event["seconds"] for end, event in zip(ends, parts, strict=True))
    span = max(max(ends) - begun, 1e-3)
    rows, tokens = (sum(event[key] for event in parts) for key in ("num_rows", "num_tokens"))
    start = max(event.get("start_seconds", 0.0) for event in parts)
    return Trial(settings, rows / span, tokens / span, start, seconds)


def _is_of(event: dict[str, Any], folder: str, session: str) -> bool:
    return str(event.get("step", "")).startswith(f"{folder}/") or str(event.get("session", "")).startswith(session)


def _figures(trial: Trial) -> tuple[str, str, str]:
    if trial.rows_per_second is None:
        return (tables.ABSENT,) * 3
    return f"{trial.rows_per_second:.2f}", f"{trial.tokens_per_second:,.0f}", tables.seconds(trial.start_seconds)


def _short(name: str) -> str:
    """A setting's name for the head of a column."""
    known = {"num_replicas": "replicas", "tensor_parallel_size": "tensor", "max_num_seqs": "seqs"}
    known |= {"max_num_batched_tokens": "tokens", "gpu_memory_utilization": "memory", "kv_cache_memory_bytes": "cache"}
    return known.get(name, name)
