"""What a report knows of a run: its committed steps' metrics, read from the directory alone.

Invariant: nothing here grows with the rows of the run, and nothing is written.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from semievol_ray import summary
from semievol_ray.reporting import page
from semievol_ray.runs import Step, read_manifest, read_steps
from semievol_ray.summary import Summary


@dataclass(frozen=True)
class Round:
    """A round whose selection is committed: its number, the metrics of that step, and the audit among them."""

    number: int
    metrics: Mapping[str, Any]
    num_rows: int

    @property
    def audit(self) -> Mapping[str, Any] | None:
        return self.metrics.get("audit")


@dataclass(frozen=True)
class Facts:
    """A run: the configuration as stored, every begun step's step.json by name, and its selected rounds in order."""

    root: str
    name: str
    manifest: Mapping[str, Any]
    config: Mapping[str, Any]
    steps: Mapping[str, Mapping[str, Any]]
    rounds: tuple[Round, ...]
    summary: Summary

    def metrics(self, step: str) -> Mapping[str, Any] | None:
        """The metrics of a step; None while it is not committed."""
        committed = self.steps.get(step, {}).get("committed")
        return committed["metrics"] if committed else None

    def step(self, name: str) -> Step:
        """A begun step, to read parts of."""
        return Step(f"{self.root}/{name}", name, tuple(self.steps[name]["parts"]))

    def evaluated(self) -> dict[str, str]:
        """Model -> its committed evaluation on the test split; SemiEvol, the round that the run hands over, is last."""
        numbers = sorted(
            _number(name)
            for name in self.steps
            if _is_of_round(name, "evaluate") and self.metrics(name) is not None and _number(name) > 0
        )
        final = (self.manifest.get("final") or {}).get("round", numbers[-1] if numbers else None)
        named = {summary.UNTOUCHED: "base/evaluate"}
        first = self.summary.first
        named |= {} if first == summary.UNTOUCHED else {first: "rounds/0000/evaluate"}
        named |= {f"after round {n}": _evaluation(n) for n in numbers if n != final}
        named |= {summary.SEMIEVOL: _evaluation(final)} if final is not None else {}
        return {model: name for model, name in named.items() if self.metrics(name) is not None}


def read_facts(root: str) -> Facts:
    """The facts of a run directory. Raises UserError when the folder is none."""
    manifest = read_manifest(root)
    steps = dict(read_steps(root))
    return Facts(
        root=root,
        name=str(manifest["name"]),
        manifest=manifest,
        config=manifest["config"],
        steps=steps,
        rounds=tuple(_rounds(steps)),
        summary=summary.summarise(root),
    )


def by_round(facts: Facts, draw: Callable[[Round], Markup]) -> Markup:
    """What `draw` makes of the last round, and of each earlier one to be opened; the reason where there is none."""
    if not facts.rounds:
        return page.absent("No round of this run has selected pseudo-labels yet.")
    *earlier, last = facts.rounds
    opened = [page.details(f"Round {r.number}", draw(r)) for r in reversed(earlier)]
    title = [page.heading(f"Round {last.number}")] if earlier else []
    return page.joined([*title, draw(last), *opened])


def audited(draw: Callable[[Round, Mapping[str, Any]], Markup]) -> Callable[[Round], Markup]:
    """`draw` for rounds that have an audit; else a sentence that says it was not recorded."""

    def with_audit(found: Round) -> Markup:
        if found.audit is None:
            return page.absent("Not recorded: this round was selected before runs had an audit.")
        return draw(found, found.audit)

    return with_audit


def _rounds(steps: Mapping[str, Mapping[str, Any]]) -> list[Round]:
    found = []
    for name in sorted(steps):
        committed = steps[name].get("committed")
        if committed and _is_of_round(name, "select"):
            found.append(Round(_number(name), committed["metrics"], committed["num_rows"]))
    return found


def _is_of_round(step: str, kind: str) -> bool:
    """Whether a step is `rounds/NNNN/<kind>`; those of the dev fold lie deeper."""
    return step.startswith("rounds/") and step.count("/") == 2 and step.endswith(f"/{kind}")


def _evaluation(number: int) -> str:
    return f"rounds/{number:04d}/evaluate"


def _number(step: str) -> int:
    return int(step.split("/")[1])
