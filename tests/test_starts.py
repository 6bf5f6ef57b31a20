"""What events tell of engine starts, and where a person sees it."""

import json
from pathlib import Path

from semievol_ray import statuslines, summary
from semievol_ray.reporting import costs
from semievol_ray.reporting.facts import read_facts
from semievol_ray.starts import Starts, engine_starts
from semievol_ray.status import status


def test_engine_is_counted_once_however_many_parts_it_answered() -> None:
    told = [("a", 3.0), ("a", 3.0), ("b", 5.5), ("a", 3.0)]
    events = [{"kind": "part_committed", "replica": replica, "start_seconds": s} for replica, s in told]
    assert engine_starts([*events, {"kind": "session_ended"}]) == Starts(2, 8.5, 5.5)


def test_run_of_before_tells_of_no_starts() -> None:
    assert engine_starts([{"kind": "part_committed", "replica": "a"}]) is None


def test_starts_are_a_line_of_status_summary_and_report(copied_run: Path) -> None:
    path = copied_run / "events.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    changed = [{**e, "start_seconds": 61.0} if e["kind"] == "part_committed" else e for e in events]
    path.write_text("".join(json.dumps(event) + "\n" for event in changed))
    num = len({e["replica"] for e in events if e["kind"] == "part_committed"})
    told = f"{num} in {num}m"
    root = str(copied_run)
    assert f"engine starts: {told}" in statuslines.render(status(root))
    assert f"of which engine starts: {told}" in summary.render(summary.summarise(root))
    assert f"Engine starts, within these times: {told}" in costs.section(read_facts(root)).body
