"""Engines of one session are told apart by their seeds."""

import os
from collections.abc import Callable

import pytest

from semievol_ray.core.answers import Labels
from semievol_ray.engines.base import EngineSpec, Sampling
from semievol_ray.engines.scripted import ScriptedGenerator
from semievol_ray.runs import Step
from semievol_ray.stages import life
from semievol_ray.stages.draft import DraftJob
from semievol_ray.stages.jobs import Session
from semievol_ray.tasks import Task

TASK = Task("kinds", "Say what it is.", Labels(("plant", "food")), max_tokens=16)


def test_replicas_restarts_and_sessions_each_start_their_engine_with_a_seed_of_their_own(
    pool: Step, begun: Callable[..., Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []

    def opened(spec: EngineSpec, *_: object) -> ScriptedGenerator:
        seeds.append(spec.seed)
        return ScriptedGenerator(spec)

    monkeypatch.setattr(life, "open_generator", opened)
    job = DraftJob(begun("drafts/a", pool.parts), pool, pool, None, 0, Sampling(1.0, 16), None)
    spec = EngineSpec("scripted", "m", "m", None, {}, "float32", 512, 4, 7, 1, False, TASK.format)
    for name in ("round-1 base", "round-2 base"):
        session = Session(name, spec, TASK, "2024-07-26", (job,), 2)
        for replica, process in (("one", 1), ("two", 1), ("one", 2), ("one", 1)):
            monkeypatch.setattr(os, "getpid", lambda process=process: process)
            life.Life(session, replica, "node", None)
    assert len(set(seeds)) == 6
    assert seeds[0] == seeds[3]
