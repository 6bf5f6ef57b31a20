"""What a benchmark has found so far: figures by name, the targets that they are held against, its table and its file.

Invariant: whether a target is met is never rounded.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.environment import commit, environment


@dataclass
class Found:
    """Name -> figure, and name -> {target, value, met}."""

    metrics: dict[str, float] = field(default_factory=dict)
    targets: dict[str, dict[str, Any]] = field(default_factory=dict)

    def at_most(self, name: str, target: float, value: float) -> None:
        """A target that a value may not exceed."""
        self.targets[name] = {"target": target, "value": value, "met": value <= target}

    def at_least(self, name: str, target: float, value: float) -> None:
        """A target that a value has to reach."""
        self.targets[name] = {"target": target, "value": value, "met": value >= target}

    def exactly(self, name: str, target: float, value: float) -> None:
        """A target that a value has to meet as it is."""
        self.targets[name] = {"target": target, "value": value, "met": value == target}

    def lines(self) -> list[str]:
        """All figures, then the targets with what was reached."""
        width = max(map(len, self.metrics), default=0)
        lines = [f"{name:<{width}} {_shown(value):>14}" for name, value in self.metrics.items()]
        for name, of in self.targets.items():
            reached, target = _shown(of["value"]), _shown(of["target"])
            lines.append(f"{'met' if of['met'] else 'NOT met':<8} {name}: {reached} (target {target})")
        return lines

    def keep(self, file: str | None, bench: str, command: str, repeats: int = 1, **more: Any) -> None:
        """Write the result file, where one is asked for: what ran, on what, and what it found so far."""
        if not file:
            return
        told = {
            "bench": bench,
            "command": command,
            "commit": commit(),
            **more,
            "environment": environment(),
            "repeats": repeats,
            "metrics": self.metrics,
            "targets": self.targets,
        }
        Path(file).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 or value == round(value) else f"{value:.4g}"
