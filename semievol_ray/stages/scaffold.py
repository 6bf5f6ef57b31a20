"""Steps that do not stay: those that another one needs until it is committed, and those in which nothing was decided.

Invariant: a folder loses its step.json last, so that what a kill leaves of it is known for what it is.
"""

import json
from collections.abc import Mapping
from typing import Any

from semievol_ray import storage
from semievol_ray.records import read_json
from semievol_ray.runs import Run
from semievol_ray.steps import STEP_FILE


def resumed(run: Run, name: str, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, Any] | None:
    """The step.json of a step begun with these settings and inputs; one that was begun with others is removed."""
    if not storage.exists(run.path(name, STEP_FILE)):
        return None
    record = read_json(run.path(name, STEP_FILE))
    if (record["settings"], record["inputs"]) == (json.loads(json.dumps(settings)), dict(inputs)):
        return record
    remove(run, name)
    return None


def remove(run: Run, name: str) -> None:
    """Remove what there is of a step."""
    folder = run.path(name)
    if not storage.exists(f"{folder}/{STEP_FILE}"):
        return
    for file in storage.names(folder):
        if file != STEP_FILE:
            storage.remove(f"{folder}/{file}")
    storage.remove_folder(folder)
