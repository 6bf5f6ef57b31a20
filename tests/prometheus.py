"""What Prometheus would read of this machine's node of a running Ray."""

import re
import time
import urllib.request
from collections.abc import Collection


def scraped(wanted: Collection[str], seconds: float = 40.0) -> str:
    """The metrics of this node, once a line has each of these patterns. AssertionError names those that never were."""
    import ray

    port = ray.nodes()[0]["MetricsExportPort"]  # type: ignore[no-untyped-call]
    missing, deadline = list(wanted), time.monotonic() + seconds
    while time.monotonic() < deadline:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text: str = answer.read().decode()
        if not (missing := [pattern for pattern in wanted if not re.search(pattern, text, re.MULTILINE)]):
            return text
        time.sleep(0.5)
    raise AssertionError(f"not among the metrics: {missing}")
