"""The manifest follows the configuration that a run goes on with, once that was found to fit what is committed.

Invariant: a configuration that is refused before any work leaves the manifest as it was; the one before stands in the
events.
"""

from collections.abc import Callable, Mapping
from typing import Any

from semievol_ray.config import RunConfig
from semievol_ray.runs import Run, read_manifest

WORK = frozenset({"step_started", "step_resumed", "step_shared"})
"""Events of a step that is worked on: every committed one before it was compared with the configuration."""


def adopting(run: Run, manifest: Mapping[str, Any], config: RunConfig) -> Callable[[Mapping[str, object]], None]:
    """A listener that saves the manifest of `config` with the first work of this driver, where it differs.

    `final`, the end of earlier rounds, goes where the configuration asks for more of them.
    """
    waiting = [manifest]

    def hear(event: Mapping[str, object]) -> None:
        if event["kind"] not in WORK or not waiting:
            return
        before, wanted = read_manifest(run.root), waiting.pop()
        final = before.get("final")
        is_more = final is not None and config.method.rounds.num > final["last_round"]
        if before["config"] == wanted["config"] and not is_more:
            return
        run.save_manifest({**wanted, **({"final": None} if is_more else {})})
        run.event("configuration_changed", before=before["config"], **({"final": final} if is_more else {}))

    return hear
