"""What one variant came to with one seed: which test rows were right, what its pseudo-labels were worth, what it cost.

Invariant: all is read from committed steps, and a step taken over from another run costs what it cost there: each
variant's figures are those it would have had alone.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semievol_ray.runs import Step, read_events, read_manifest, read_steps
from semievol_ray.sessions import engine_sessions
from semievol_ray.stages.evaluate import asked, correctness


@dataclass(frozen=True)
class Result:
    """One variant with one seed. correct: right or wrong for each row of the test split with digest `test`, whose ids
    are `questions`.

    Precisions are None without gold answers or pseudo-labels; `coverage` is the share of the pool that was accepted.
    """

    variant: str
    seed: int
    root: str
    correct: NDArray[np.bool_]
    questions: tuple[str, ...]
    test: str
    precision_all: float | None
    precision_accepted: float | None
    coverage: float | None
    num_prompt_tokens: int
    num_tokens: int
    seconds: float

    @property
    def accuracy(self) -> float:
        """The share of test rows answered right."""
        return float(self.correct.mean())


def read_result(variant: str, seed: int, root: str, evaluated: str) -> Result:
    """The result in a run directory whose committed step `evaluated` is the evaluation of the variant's model."""
    done = {name: record for name, record in read_steps(root) if record.get("committed")}
    counted = {n: r for n, r in done.items() if n == evaluated or not n.endswith("/evaluate")}
    prompt, generated = (
        sum(int(r["committed"]["metrics"].get(key, 0)) for r in counted.values())
        for key in ("num_prompt_tokens", "num_tokens")
    )
    step = Step(f"{root}/{evaluated}", evaluated, tuple(done[evaluated]["parts"]))
    return Result(
        variant=variant,
        seed=seed,
        root=root,
        correct=correctness(step),
        questions=asked(step),
        test=done[evaluated]["inputs"]["test"],
        **_pseudo_labels(root, done),
        num_prompt_tokens=prompt,
        num_tokens=generated,
        seconds=seconds_alone(root, counted),
    )


def seconds_alone(root: str, steps: Mapping[str, Any]) -> float:
    """Seconds of some committed steps of a run; those of a step taken over are read where it was made."""
    made: dict[str, dict[str, float]] = {}
    total = 0.0
    for name, record in steps.items():
        shared_from = record["committed"].get("shared_from")
        origin = os.path.normpath(f"{root}/{shared_from}").removesuffix(f"/{name}") if shared_from else root
        if origin not in made:
            made[origin] = step_seconds(origin)
        total += made[origin].get(name, record["committed"]["seconds"])
    return total


def step_seconds(root: str) -> dict[str, float]:
    """Seconds of every committed step that a run made itself, by name.

    Steps that one engine answered share its session's time, its start included, by their tokens: their work is not
    apart. Every other step has the seconds of the attempt that committed it.
    """
    done = {name: record["committed"] for name, record in read_steps(root) if record.get("committed")}
    own = {name: committed for name, committed in done.items() if "shared_from" not in committed}
    answered: dict[str, float] = {}
    for session in engine_sessions(read_events(root)):
        weights = {name: _num_tokens(own[name]["metrics"]) for name in session.jobs if name in own}
        for name, weight in weights.items():
            answered[name] = answered.get(name, 0.0) + session.seconds * weight / sum(weights.values())
    return {name: answered.get(name, float(committed["seconds"])) for name, committed in own.items()}


def _num_tokens(metrics: Mapping[str, Any]) -> int:
    return max(1, int(metrics.get("num_tokens", 0)) + int(metrics.get("num_prompt_tokens", 0)))


def _pseudo_labels(root: str, done: Mapping[str, Any]) -> dict[str, float | None]:
    """Precision of all labels of the first round, and precision and coverage of what the last round trained on."""
    selected = sorted(n for n in done if n.startswith("rounds/") and n.endswith("/select") and "/dev/" not in n)
    if not selected:
        return {"precision_all": None, "precision_accepted": None, "coverage": None}
    metrics = [done[name]["committed"]["metrics"] for name in selected]
    kept = [next(row for row in m["decisions"] if row["decision"] == "accepted") for m in metrics]
    kept = kept[-1:] if _answers_all_again(root) else kept
    judged = sum(row["judged"] for row in kept)
    right = sum(row["judged"] * row["precision"] for row in kept if row["judged"])
    num_rows = done["data/unlabeled"]["committed"]["num_rows"]
    return {
        "precision_all": metrics[0]["precision_all"],
        "precision_accepted": right / judged if judged else None,
        "coverage": sum(row["rows"] for row in kept) / num_rows,
    }


def _answers_all_again(root: str) -> bool:
    return bool(read_manifest(root)["config"]["method"]["rounds"]["reanswer"] == "all")
