"""How long an engine may keep everybody waiting, and which engine a watchdog watches.

Invariant: values alone, of the standard library, for the watchdog has to stay small.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Patience:
    """How long an engine may show no progress, take to start, and take to leave a machine that goes away."""

    stall_seconds: float = 600.0
    start_seconds: float = 1800.0
    grace_seconds: float = 25.0


@dataclass(frozen=True)
class Watch:
    """One engine to watch: its process and pulse, and its session's board (folder and fence) on which to tell."""

    pid: int
    pulse: str
    folder: str
    fence: int | None
    patience: Patience
    replica: str
    node: str
