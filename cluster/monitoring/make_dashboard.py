"""Write grafana/semievol.json: one dashboard of a run's pace, progress, troubles and machines.

Run it again after a change of semievol_ray/stages/metrics.py: python cluster/monitoring/make_dashboard.py
"""

import json
import re
from pathlib import Path
from typing import Any

from semievol_ray.stages import metrics as m
from semievol_ray.stages.metrics import PREFIX, Metric

OUT = Path(__file__).parent / "grafana" / "semievol.json"
OTHERS = frozenset(
    ("ray_node_cpu_utilization", "ray_node_mem_used", "ray_node_mem_total", "ray_node_gpus_utilization",
     "ray_node_gram_used", "ray_node_disk_usage", "ray_node_disk_free")
)  # fmt: skip
"""Metrics of Ray itself, of every node."""
ENGINES = {
    name: f"{PREFIX}vllm_{name}"
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "prompt_tokens_total",
                 "generation_tokens_total", "prefix_cache_queries_total", "prefix_cache_hits_total",
                 "num_preemptions_total")
}  # fmt: skip
"""Metrics of vLLM, of every engine; they know no run."""
WINDOW = "$__rate_interval"
Panel = tuple[str, str, list[tuple[str, str]]]


def named(metric: Metric, suffix: str = "") -> str:
    """A metric as Prometheus has it, of the runs chosen above the dashboard."""
    return f'{PREFIX}{metric.name}{suffix}{{run=~"$run"}}'


def rate(metric: Metric, by: str, suffix: str = "") -> str:
    """A counter's units a second."""
    return f"sum by ({by}) (rate({named(metric, suffix)}[{WINDOW}]))"


def of_engines(name: str, how: str = "sum") -> str:
    """A gauge of vLLM's over all engines of a model."""
    return f"{how} by (model_name) ({ENGINES[name]})"


def rate_of_engines(name: str) -> str:
    """A counter of vLLM's, units a second of all engines of a model."""
    return f"sum by (model_name) (rate({ENGINES[name]}[{WINDOW}]))"


def panels() -> list[Panel]:
    """(title, unit, [(query, legend)]) of every panel, in order."""
    left, parts = named(m.STEP_LEFT), named(m.STEP_PARTS)
    median = f"histogram_quantile(0.5, {rate(m.SECONDS, 'le, step', '_bucket')})"
    slowest = f"histogram_quantile(0.99, {rate(m.SECONDS, 'le, step', '_bucket')})"
    return [
        ("Progress of each step", "percentunit",
         [(f"1 - max by (run, step) ({left}) / (max by (run, step) ({parts}) > 0)", "{{run}} {{step}}")]),
        ("Rows per second", "rowsps", [(rate(m.ROWS, "run, step"), "{{run}} {{step}}")]),
        ("Tokens per second", "short", [(rate(m.TOKENS, "run, kind"), "{{run}} {{kind}}")]),
        ("Seconds of a part", "s", [(median, "{{step}} median"), (slowest, "{{step}} 99%")]),
        ("Requests at once in an engine", "short",
         [(f"avg by (run, step) ({named(m.OUTSTANDING)})", "{{run}} {{step}}")]),
        ("Troubles of engines and retried parts", "short",
         [(f"sum by (run, kind) ({named(m.ENGINE_ERRORS)})", "{{run}} {{kind}}"),
          (f"sum by (run) ({named(m.RETRIES)})", "{{run}} retried parts")]),
        ("Failed rows, of all rows", "percentunit",
         [(f"sum by (run, step) ({named(m.FAILED)}) / sum by (run, step) ({named(m.ROWS)})", "{{run}} {{step}}")]),
        ("Decisions", "short", [(f"max by (run, step, decision) ({named(m.DECISIONS)})", "{{step}} {{decision}}")]),
        ("Parts committed", "short", [(f"sum by (run, step) ({named(m.PARTS)})", "{{run}} {{step}}")]),
        ("Seconds of committed steps", "s", [(f"max by (run, step) ({named(m.STEP_SECONDS)})", "{{run}} {{step}}")]),
        ("vLLM: requests in the engines", "short",
         [(of_engines("num_requests_running"), "{{model_name}} running"),
          (of_engines("num_requests_waiting"), "{{model_name}} waiting")]),
        ("vLLM: KV cache used", "percentunit", [(of_engines("kv_cache_usage_perc", "avg"), "{{model_name}}")]),
        ("vLLM: tokens per second", "short",
         [(rate_of_engines("prompt_tokens_total"), "{{model_name}} prompt"),
          (rate_of_engines("generation_tokens_total"), "{{model_name}} generated")]),
        ("vLLM: prompt tokens found in the prefix cache", "percentunit",
         [(f"{rate_of_engines('prefix_cache_hits_total')} / {rate_of_engines('prefix_cache_queries_total')}",
           "{{model_name}}")]),
        ("vLLM: preemptions per second", "short", [(rate_of_engines("num_preemptions_total"), "{{model_name}}")]),
        ("GPUs: use", "percent", [("avg by (instance) (ray_node_gpus_utilization)", "{{instance}}")]),
        ("GPUs: memory in MiB", "short", [("sum by (instance) (ray_node_gram_used)", "{{instance}}")]),
        ("CPUs: use", "percent", [("ray_node_cpu_utilization", "{{instance}}")]),
        ("Memory used", "percentunit", [("ray_node_mem_used / ray_node_mem_total", "{{instance}}")]),
        ("Disk used", "bytes", [("ray_node_disk_usage", "{{instance}}")]),
        ("Disk free", "bytes", [("ray_node_disk_free", "{{instance}}")]),
    ]  # fmt: skip


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it; two panels a row."""
    source = {"type": "prometheus", "uid": "${datasource}"}
    chosen = {
        "name": "run", "type": "query", "datasource": source, "multi": True, "includeAll": True, "refresh": 2,
        "query": f"label_values({PREFIX}{m.ROWS.name}, run)", "current": {"text": "All", "value": "$__all"},
    }  # fmt: skip
    return {
        "uid": "semievol",
        "title": "SemiEvol runs",
        "tags": ["semievol", "ray"],
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}, chosen]},
        "panels": [_panel(i, panel, source) for i, panel in enumerate(panels())],
    }


def metric_names(tree: dict[str, Any]) -> set[str]:
    """Every metric that a dashboard asks for."""
    queries = [target["expr"] for panel in tree["panels"] for target in panel["targets"]]
    return {name for query in queries for name in re.findall(rf"\b{PREFIX}\w+", query)}


def text() -> str:
    """The file's content."""
    return json.dumps(dashboard(), indent=1) + "\n"


def _panel(index: int, panel: Panel, source: dict[str, str]) -> dict[str, Any]:
    title, unit, queries = panel
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": title,
        "datasource": source,
        "gridPos": {"h": 8, "w": 12, "x": 12 * (index % 2), "y": 8 * (index // 2)},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": source, "expr": query, "legendFormat": legend}
            for i, (query, legend) in enumerate(queries)
        ],
    }


if __name__ == "__main__":
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(text(), encoding="utf-8")
    print(OUT)
