"""What a benchmark has found so far: figures by name, and the targets that they are held against.

Invariant: whether a target is met is never rounded.
"""

from dataclasses import dataclass, field
from typing import Any


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
