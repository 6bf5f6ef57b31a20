"""A run's metrics where Prometheus finds them, and the dashboard made of them."""

import importlib.util
import json
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import pytest
from prometheus import scraped

from semievol_ray.stages import metrics
from semievol_ray.stages.jobs import PartReport
from semievol_ray.stages.metrics import METRICS, PREFIX, RunMetrics

MONITORING = Path(__file__).parents[2] / "cluster/monitoring"
REPORT = PartReport(
    step="rounds/0001/drafts/a", part="part-00000", replica="r", node="n", num_rows=8, num_errors=1, num_tokens=40,
    num_prompt_tokens=160, seconds=2.5, median_outstanding=16.0, first_error=None, num_unreadable=0, unreadable=[],
    attempt=2,
)  # fmt: skip
PART = {"kind": "part_committed", **asdict(REPORT)}


def value(text: str, name: str, **tags: str) -> float:
    (line,) = (
        line
        for line in text.splitlines()
        if line.startswith(f"{PREFIX}{name}{{") and all(f'{key}="{tag}"' in line for key, tag in tags.items())
    )
    return float(line.rpartition(" ")[2])


@pytest.mark.usefixtures("small_ray")
def test_events_of_a_run_are_metrics_that_prometheus_can_scrape() -> None:
    heard = RunMetrics("watched")
    step = str(PART["step"])
    heard({"kind": "step_resumed", "step": step, "num_parts": 10, "num_missing": 4})
    heard(PART)
    heard({**PART, "part": "part-00001", "attempt": 1})
    heard({"kind": "engine_died", "seen": "gone", "session": "s"})
    heard({"kind": "step_committed", "step": "rounds/0001/select", "seconds": 3.0,
           "metrics": {"decisions": [{"decision": "accepted", "rows": 5}]}})  # fmt: skip

    names = ("rows", "tokens", "retries", "step_parts_left", "engine_errors", "part_seconds_count", "decisions")
    text = scraped([rf'^{PREFIX}semievol_{name}(_total)?{{.*run="watched"' for name in names])

    assert value(text, "semievol_rows_total", run="watched", step=step) == 16
    assert value(text, "semievol_tokens_total", run="watched", kind="prompt") == 320
    assert value(text, "semievol_retries_total", run="watched") == 1
    assert value(text, "semievol_step_parts_left", run="watched", step=step) == 2
    assert value(text, "semievol_engine_errors_total", run="watched", kind="engine_died") == 1
    assert value(text, "semievol_part_seconds_count", run="watched") == 2
    assert value(text, "semievol_decisions_total", run="watched", decision="accepted") == 5
    assert "part-00000" not in text


def test_event_without_a_running_ray_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_has_ray", lambda: False)
    monkeypatch.setattr(metrics, "_made", None)

    RunMetrics("r")(PART)  # would fail at the None


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_dashboard", MONITORING / "make_dashboard.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_dashboard_is_what_its_script_makes(maker: ModuleType) -> None:
    assert (MONITORING / "grafana/semievol.json").read_text(encoding="utf-8") == maker.text()


def test_dashboard_asks_only_for_metrics_that_exist_and_for_all_of_ours(maker: ModuleType) -> None:
    asked = maker.metric_names(json.loads((MONITORING / "grafana/semievol.json").read_text(encoding="utf-8")))
    ours = {f"{PREFIX}{m.name}{'_bucket' if m.kind == 'histogram' else ''}" for m in METRICS}

    assert asked - ours == maker.OTHERS | set(maker.ENGINES.values())
    assert ours <= asked
