"""A run's figures as Prometheus metrics of the Ray cluster, fed by the run's events.

Invariant: tags have few values (run, step, kind), never a part or a row; without a running Ray nothing is recorded.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

PREFIX = "ray_"
"""What Ray puts before a metric's name where Prometheus reads it."""


@dataclass(frozen=True)
class Metric:
    """One metric as ray.util.metrics is asked for it."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    tags: tuple[str, ...] = ("run", "step")
    boundaries: tuple[float, ...] = ()


ROWS = Metric("semievol_rows_total", "counter", "Rows answered, in committed parts.")
TOKENS = Metric("semievol_tokens_total", "counter", "Tokens of answered rows.", ("run", "step", "kind"))
PARTS = Metric("semievol_parts_total", "counter", "Parts committed.")
FAILED = Metric("semievol_failed_rows_total", "counter", "Rows that ended as engine_error.")
SECONDS = Metric(
    "semievol_part_seconds", "histogram", "Seconds from a part's begin to its commit.",
    boundaries=(0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000),
)  # fmt: skip
OUTSTANDING = Metric("semievol_outstanding_requests", "gauge", "Requests an engine had at once, of the newest part.")
ENGINE_ERRORS = Metric("semievol_engine_errors_total", "counter", "Troubles of engines by kind.", ("run", "kind"))
RETRIES = Metric("semievol_retries_total", "counter", "Parts committed at a later attempt than the first.")
STEP_PARTS = Metric("semievol_step_parts", "gauge", "Parts of a step in all.")
STEP_LEFT = Metric("semievol_step_parts_left", "gauge", "Parts of a step that are not committed yet.")
DECISIONS = Metric("semievol_decisions_total", "counter", "Rows by decision.", ("run", "step", "decision"))
STEP_SECONDS = Metric("semievol_step_seconds", "gauge", "Seconds that a committed step took.")
METRICS = (
    ROWS, TOKENS, PARTS, FAILED, SECONDS, OUTSTANDING, ENGINE_ERRORS, RETRIES, STEP_PARTS, STEP_LEFT, DECISIONS,
    STEP_SECONDS,
)  # fmt: skip
TROUBLE = "engine_"
"""How the kinds of events begin that tell of an engine's trouble."""


class RunMetrics:
    """Turns the events of one run into metrics; a listener of the run."""

    def __init__(self, run_name: str) -> None:
        self._run = run_name
        self._left: dict[str, int] = {}

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Record one event. Never raises: an event without a field records what it has."""
        if not _has_ray():
            return
        match event.get("kind"):
            case "part_committed":
                self._part(event)
            case "step_started" | "step_resumed":
                self._begun(event)
            case "step_committed":
                self._ended(event)
            case str(kind) if kind.startswith(TROUBLE):
                record(ENGINE_ERRORS, 1, run=self._run, kind=kind)

    def _begun(self, event: Mapping[str, Any]) -> None:
        step, num_parts = str(event["step"]), int(event.get("num_parts", 0))
        self._left[step] = int(event.get("num_missing", num_parts))
        record(STEP_PARTS, num_parts, run=self._run, step=step)
        record(STEP_LEFT, self._left[step], run=self._run, step=step)

    def _part(self, event: Mapping[str, Any]) -> None:
        about = {"run": self._run, "step": str(event["step"])}
        record(ROWS, event.get("num_rows", 0), **about)
        record(PARTS, 1, **about)
        record(FAILED, event.get("num_errors", 0), **about)
        record(TOKENS, event.get("num_prompt_tokens", 0), **about, kind="prompt")
        record(TOKENS, event.get("num_tokens", 0), **about, kind="generated")
        record(SECONDS, event.get("seconds", 0.0), **about)
        record(OUTSTANDING, event.get("median_outstanding", 0.0), **about)
        record(RETRIES, int(int(event.get("attempt") or 1) > 1), **about)
        if about["step"] in self._left:
            self._left[about["step"]] = max(0, self._left[about["step"]] - 1)
            record(STEP_LEFT, self._left[about["step"]], **about)

    def _ended(self, event: Mapping[str, Any]) -> None:
        about = {"run": self._run, "step": str(event["step"])}
        record(STEP_LEFT, 0, **about)
        record(STEP_SECONDS, event.get("seconds", 0.0), **about)
        for row in (event.get("metrics") or {}).get("decisions") or ():
            record(DECISIONS, row["rows"], **about, decision=str(row["decision"]))


def record(metric: Metric, value: float, **tags: str) -> None:
    """Add to a counter, set a gauge, or observe in a histogram."""
    made = _made(metric)
    match metric.kind:
        case "counter":
            if value > 0:
                made.inc(value, tags=tags)
        case "gauge":
            made.set(value, tags=tags)
        case "histogram":
            made.observe(value, tags=tags)


@cache
def _made(metric: Metric) -> Any:
    from ray.util import metrics

    name, told, tags = metric.name, metric.description, metric.tags
    match metric.kind:
        case "counter":
            return metrics.Counter(name, told, tags)
        case "gauge":
            return metrics.Gauge(name, told, tags)
        case "histogram":
            return metrics.Histogram(name, told, list(metric.boundaries), tags)


def _has_ray() -> bool:
    """Whether this process is connected; one that never imported Ray is not."""
    ray = sys.modules.get("ray")
    return bool(ray and ray.is_initialized())
